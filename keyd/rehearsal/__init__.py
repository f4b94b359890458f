"""Rehearsals: what python-tuf's stock client makes of files before anybody else sees them."""
