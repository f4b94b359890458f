"""State and audit log behind one port, because one transaction covers both."""
