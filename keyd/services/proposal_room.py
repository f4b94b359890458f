"""How many proposals may wait at a time, of all principals and of each."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.domain.records_quorum import Proposal, ProposalState
from keyd.errors import Exhausted
from keyd.ports import Transaction
from keyd.services import quorum
from keyd.services.world import World

MAX_OPEN = 1_000
# Of one principal: nobody keeps the others from proposing, or fills the disk. A rotation needs a
# handful, a release with all of its delegated roles some dozens.
MAX_OPEN_EACH = 100
MAX_PAYLOAD_BYTES_EACH = 64 * 1024 * 1024


def make_room(world: World, tx: Transaction, principal: str, size: int) -> None:
    """See that the principal may have one more open proposal, with a payload of `size` bytes.

    What has expired is closed, so that it does not stand in the way of others for ever.
    Raises: Exhausted (TOO_MANY_PROPOSALS, TOO_MANY_PROPOSALS_OF_CALLER).
    """
    waiting = tx.open_proposals()
    expired = [each for each in waiting if each.expires_at <= world.clock.now()]
    for proposal in expired:
        quorum.end(world, tx, proposal, ProposalState.CANCELLED, "keyd")
    if len(waiting) - len(expired) >= MAX_OPEN:
        raise Exhausted("TOO_MANY_PROPOSALS", f"{MAX_OPEN} proposals are open: cancel some")
    own = [each for each in waiting if each.proposer == principal and each not in expired]
    _check_own(own, principal, size)


def _check_own(own: Sequence[Proposal], principal: str, size: int) -> None:
    held = sum(len(each.payload) for each in own)
    if len(own) >= MAX_OPEN_EACH:
        words = f"{len(own)} open proposals, of at most {MAX_OPEN_EACH}"
    elif size and held + size > MAX_PAYLOAD_BYTES_EACH:
        words = f"{held} bytes of payloads in open proposals, of at most {MAX_PAYLOAD_BYTES_EACH}"
    else:
        return
    raise Exhausted(
        "TOO_MANY_PROPOSALS_OF_CALLER",
        f"{principal} has {words}: cancel some, or wait until officers have decided or they expire",
    )
