"""The log as others see it: entries, signed checkpoints, proofs."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.domain import checkpoint as notes
from keyd.domain.audit import Checkpoint, Leaf
from keyd.domain.keys import Content, Key, KeySpec, Scheme
from keyd.domain.policy import Action, Caller
from keyd.errors import InvalidRequest, KeydError, PolicyViolation
from keyd.ports import View
from keyd.services.authorize import demand
from keyd.services.key_creation import LOG_KEY_NAME, generate
from keyd.services.paging import page_size as checked_size
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World

_PRINCIPAL = "keyd"


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint with its note, and the C2SP verifier key of the log."""

    checkpoint: Checkpoint
    verifier_key: str


def entries(
    world: World, caller: Caller, start: int, page_size: int
) -> tuple[tuple[Leaf, ...], int]:
    """Leaves from `start` on and the size of the log."""
    demand(world, caller, Action("AuditService.ListEntries"))
    wanted = checked_size(page_size)

    def work(view: View) -> tuple[tuple[Leaf, ...], int]:
        size = view.log_size()
        return tuple(view.leaves(start, min(start + wanted, size))), size

    return world.ledger.read(work)


def checkpoint(world: World, caller: Caller, timeout_s: float) -> SignedCheckpoint:
    """The newest checkpoint; a new one is signed if the log has grown since the last."""
    demand(world, caller, Action("AuditService.GetCheckpoint"))
    return sign_checkpoint(world, timeout_s)


def sign_checkpoint(world: World, timeout_s: float) -> SignedCheckpoint:
    """The use case behind `checkpoint`, for the daemon's own clockwork.

    Raises: PolicyViolation (LOG_KEY_MISSING), BackendUnavailable, DeadlineExceeded.
    """
    key = log_key(world)
    signer = notes.LogKey(world.ledger.unsigned_checkpoint().origin, key.public_der)
    latest, head = world.ledger.checkpoint(), world.ledger.unsigned_checkpoint()
    if latest is not None and latest.size == head.size:
        return SignedCheckpoint(latest, signer.verifier())
    text = notes.text_of(head)
    deadline = Deadline(world.clock, timeout_s)
    answer = sign_verified(world, key.token, [(key, text)], deadline)[0]
    if isinstance(answer, KeydError):
        raise answer
    signed = notes.signed(head, signer, answer)
    world.ledger.put_checkpoint(signed)
    return SignedCheckpoint(signed, signer.verifier())


def inclusion_proof(
    world: World, caller: Caller, index: int, size: int
) -> tuple[tuple[bytes, ...], bytes]:
    """Audit path and leaf hash of one entry (RFC 6962 2.1.1). Raises: InvalidRequest."""
    demand(world, caller, Action("AuditService.GetInclusionProof"))
    path = world.ledger.inclusion_proof(index, size)
    leaf = world.ledger.read(lambda view: next(iter(view.leaves(index, index + 1)), None))
    if leaf is None:
        raise InvalidRequest("LOG_INDEX_UNKNOWN", f"the log has no entry {index}")
    return path, leaf.leaf_hash


def consistency_proof(world: World, caller: Caller, first: int, second: int) -> tuple[bytes, ...]:
    """Proof that the smaller tree begins the larger (RFC 6962 2.1.2). Raises: InvalidRequest."""
    demand(world, caller, Action("AuditService.GetConsistencyProof"))
    return world.ledger.consistency_proof(first, second)


def log_key(world: World) -> Key:
    """The key that signs checkpoints. Raises: PolicyViolation (LOG_KEY_MISSING)."""
    found = _log_key(world)
    if found is None:
        raise PolicyViolation(
            "LOG_KEY_MISSING",
            "the log key is not made yet; it is made when the log token is first online",
        )
    return found


def ensure_log_key(world: World, token: str, timeout_s: float) -> Key:
    """The log key, generated on `token` the first time: Ed25519, or P-256 where that is missing."""
    found = _log_key(world)
    if found is not None:
        return found
    able = world.tokens.get(token).status().schemes
    scheme = Scheme.ED25519 if Scheme.ED25519 in able else Scheme.ECDSA_P256
    return generate(
        world,
        _PRINCIPAL,
        name=LOG_KEY_NAME,
        token=token,
        spec=KeySpec(scheme),
        content=Content.LOG,
        timeout_s=timeout_s,
    )


def _log_key(world: World) -> Key | None:
    found = world.ledger.read(lambda view: view.key(LOG_KEY_NAME))
    return found if found and found.content is Content.LOG else None
