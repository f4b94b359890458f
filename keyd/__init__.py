"""Keeps TUF signing keys on hardware tokens and is the only thing that can use them."""

__version__ = "0.1.0"
