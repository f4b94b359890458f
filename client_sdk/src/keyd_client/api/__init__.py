"""The calls of the keyd API, one module per service."""
