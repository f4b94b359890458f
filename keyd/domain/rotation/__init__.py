"""Rotations, pure: what changes, what follows from it, what forbids it, and the new payloads."""
