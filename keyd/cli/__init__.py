"""The ``keyd`` command."""
