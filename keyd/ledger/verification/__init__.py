"""Recomputing a ledger from its raw log entries, and exporting it so that others can."""
