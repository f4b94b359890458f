"""What `keyd doctor` looks at: this host, a running daemon, an installation."""
