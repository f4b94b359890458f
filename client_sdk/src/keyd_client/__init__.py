"""Client SDK of keyd: a securesystemslib signer and the client of the keyd API."""

__version__ = "0.1.0"
