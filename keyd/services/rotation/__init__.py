"""Rotations: planned, carried out step by step, rehearsed, released, retired."""
