"""Generated stubs of the public keyd API (made by ``make protos``; do not edit)."""
