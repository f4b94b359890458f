"""A program that signs in a ledger until it is killed, and tells what was acknowledged to it.

    python -m tests.faults.ledger_program BASE THREADS [LAST]

Each thread signs versions of a role of its own, going on where the ledger is. A line on standard
output, "ROLE VERSION DIGEST reserved|signed", is written after the ledger said that it is durable.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from keyd.ledger.sqlite import SqliteLedger
from tests.ledgers import REPOSITORY, Home, complete, reserve


def main(base: str, threads: int, last: int) -> None:
    ledger = Home(Path(base)).open()
    if ledger.refusal() is not None:
        sys.exit(f"refused: {ledger.refusal()}")
    os.write(1, b"open\n")
    workers = [
        threading.Thread(target=_sign_on, args=(ledger, f"role{n}", last)) for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ledger.close()


def _sign_on(ledger: SqliteLedger, role: str, last: int) -> None:
    found = ledger.read(lambda view: view.role(REPOSITORY, role))
    for version in range((found.high_water if found else 0) + 1, last + 1):
        made = ledger.transact(reserve(version, role))
        # One write of a short line to a pipe is atomic, and outlives the process.
        os.write(1, f"{role} {version} {made.digest} reserved\n".encode())
        ledger.transact(complete(made))
        os.write(1, f"{role} {version} {made.digest} signed\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000)
