"""Generated stubs of ``keyd.v1``."""
