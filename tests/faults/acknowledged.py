"""What `ledger_program` was told is durable, and whether a ledger still holds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyd.ledger.sqlite import SqliteLedger
from keyd.ports import View
from tests.ledgers import KEY, REPOSITORY


@dataclass(frozen=True)
class Acknowledged:
    """A line of the program: the ledger had said that this is durable."""

    role: str
    version: int
    digest: str
    signed: bool


def told_by(output: bytes) -> list[Acknowledged]:
    """The lines of the program that tell of something durable."""
    lines = [line.split() for line in output.decode().splitlines()]
    return [
        Acknowledged(line[0], int(line[1]), line[2], line[3] == "signed")
        for line in lines
        if len(line) == 4
    ]


def missing(ledger: SqliteLedger, told: Iterable[Acknowledged]) -> list[Acknowledged]:
    """What was acknowledged and is not recorded with its bytes."""

    def work(view: View) -> list[Acknowledged]:
        return [one for one in told if not _holds(view, one)]

    return ledger.read(work)


def _holds(view: View, one: Acknowledged) -> bool:
    found = view.reservation(REPOSITORY, one.role, 0, one.version)
    if found is None or found.digest != one.digest:
        return False
    signers = [signature.fingerprint for signature in view.signatures(found)]
    return not one.signed or signers == [KEY.fingerprint]
