"""One function per use case, taking ports as arguments."""
