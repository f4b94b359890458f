"""State and audit log behind one port, because one transaction covers both."""

from keyd.ledger.create import create_ledger
from keyd.ledger.opening import open_ledger
from keyd.ledger.sqlite import SqliteLedger

__all__ = ["SqliteLedger", "create_ledger", "open_ledger"]
