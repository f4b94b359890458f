"""Fuzzing of everything that reads what others wrote; docs/howto/fuzzing.md says how to run it."""
