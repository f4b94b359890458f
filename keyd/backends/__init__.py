"""The supervisor that starts, feeds and replaces token workers."""
