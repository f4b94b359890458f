"""Keys, roles, payload rules and state machines as frozen values and pure functions."""
