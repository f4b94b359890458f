"""Messages between the daemon and its token workers; private, versioned with the daemon."""
