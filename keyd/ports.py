"""What the use cases need from the world: tokens, a ledger, a clock. Nothing else is a port.

Implementations live in `keyd.backends` and `keyd.ledger`; `keyd.daemon` puts them together. Every
method may raise a `keyd.errors.KeydError`; no other exception crosses these lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar, runtime_checkable

from keyd.domain.audit import Checkpoint, Entry, Leaf
from keyd.domain.delegations import Succinct
from keyd.domain.keys import Key, KeySpec
from keyd.domain.officers import Officer, OfficerSet
from keyd.domain.records import (
    Delegation,
    Intent,
    LedgerIdentity,
    LostVersions,
    Material,
    OpaqueSignature,
    PinAttempt,
    Repository,
    RequestRecord,
    Reservation,
    Role,
    StoredSignature,
    TokenIdentity,
    VersionRecord,
)
from keyd.domain.records_quorum import Approval, Proposal
from keyd.domain.records_rotation import Rotation, RotationFile, SignedVersion
from keyd.domain.rehearsal import Act, Play
from keyd.domain.tokens import FoundKey, SignItem, TokenEvent, TokenStatus

T = TypeVar("T")


class Clock(Protocol):
    """Wall time for expiry and records, monotonic seconds for deadlines."""

    def now(self) -> datetime:
        """Current UTC time, timezone-aware. Raises: BackendUnavailable if the clock is not sane."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


Late = Callable[[SignItem, bytes], None]


class KeyBackend(Protocol):
    """One token. Safe between threads; every call ends within `timeout_s`.

    Raises: BackendUnavailable (token offline, recovering, quarantined), PinRejected (PIN wanted),
    DeadlineExceeded (outcome UNKNOWN_RECORDED once the token was asked), NotFound, InvalidRequest.
    """

    @property
    def name(self) -> str: ...

    def status(self) -> TokenStatus:
        """The last known state; never waits for the token."""

    def sign(
        self, items: Sequence[SignItem], timeout_s: float, late: Late | None = None
    ) -> list[bytes | Exception]:
        """Sign many messages in one exchange; one signature or one KeydError each, in order.

        Signatures have their TUF form (DER for ECDSA, 64 bytes Ed25519, modulus size RSA) and are
        *not* verified here: callers verify against the registered public key. `late` is told, on a
        thread that it must not keep, of signatures that were made after their time was up.
        """

    def generate(self, spec: KeySpec, cka_id: bytes, label: str, timeout_s: float) -> FoundKey:
        """Make a key pair with the attributes of docs/reference/token-attributes.md."""

    def find(self, cka_id: bytes, timeout_s: float) -> FoundKey:
        """The one key pair with this CKA_ID. Raises: NotFound, InvalidRequest (several)."""

    def inventory(self, timeout_s: float) -> tuple[FoundKey, ...]:
        """All key objects on the token, strays included."""

    def unlock(self, pin: bytearray | None, timeout_s: float) -> TokenStatus:
        """Log in once by an operator's wish: with `pin` (overwritten), or None for the credential.

        Raises: PinRejected when the token said no.
        """

    def quarantine(self, reason: str) -> None:
        """Stop using the token until `release`; survives restarts."""

    def release(self) -> None:
        """Lift a quarantine; the token is opened and checked anew."""


@runtime_checkable
class Destroys(Protocol):
    """A backend that can delete key pairs."""

    def destroy(self, key: Key, timeout_s: float) -> int:
        """Delete the private and the public object of this pair; return how many there were.

        None is a success: an earlier try went that far. Raises: as `KeyBackend`; NotFound,
        InvalidRequest, SelfCheckFailed when the objects are not those of the recorded pair.
        """


class Tokens(Protocol):
    """All configured tokens."""

    def get(self, name: str) -> KeyBackend:
        """Raises: NotFound."""

    def all(self) -> tuple[KeyBackend, ...]: ...

    def watch(self, stop: Callable[[], bool]) -> Iterator[TokenEvent]:
        """Events from now on until `stop()`; first the present status of every token."""


class TokenJournal(Protocol):
    """What must survive a restart about tokens; a backend writes it, the ledger keeps it."""

    def identity(self, token: str) -> TokenIdentity | None: ...

    def pin_identity(self, identity: TokenIdentity) -> None:
        """Pin the first identity seen; a later different one is refused by the backend."""

    def pin_attempt(self, token: str) -> PinAttempt | None:
        """The last unsettled or rejected attempt; None: a machine may present the PIN."""

    def record_pin_attempt(self, attempt: PinAttempt | None, token: str) -> None:
        """Durable when it returns. None clears: accepted, or an operator decided anew."""

    def quarantined(self, token: str) -> str | None: ...

    def record_quarantine(self, token: str, reason: str | None) -> None: ...

    def keys(self, token: str) -> tuple[Key, ...]:
        """The registered keys of this token, to reconcile with what it holds."""


class View(Protocol):
    """Reading recorded state; one consistent moment."""

    def expect(self, roles: Sequence[tuple[str, str]], requests: Sequence[tuple[str, str]]) -> None:
        """These (repository, role) and (principal, request id) will be read: better at once."""

    def identity(self) -> LedgerIdentity: ...

    def key(self, name: str) -> Key | None: ...

    def key_by_fingerprint(self, fingerprint: str) -> Key | None: ...

    def keys(self) -> tuple[Key, ...]: ...

    def repository(self, name: str) -> Repository | None: ...

    def repositories(self) -> tuple[Repository, ...]: ...

    def role(self, repository: str, role: str) -> Role | None: ...

    def roles(self, repository: str) -> tuple[Role, ...]: ...

    def delegations_of_key(self, fingerprint: str) -> tuple[tuple[str, Delegation], ...]:
        """(repository, delegation) pairs by which accepted metadata gives this key a role."""

    def delegators_of(self, repository: str, role: str) -> tuple[str, ...]:
        """Roles whose accepted metadata delegates `role`, by name or by a pattern covering it."""

    def delegations_by(self, repository: str, delegator: str) -> tuple[Delegation, ...]:
        """What the newest accepted metadata of a role delegates."""

    def named_bins(self, repository: str, bins: Succinct) -> tuple[str, ...]:
        """Roles that accepted metadata delegates by a name that is one of the bins'."""

    def delegating_bins(self, repository: str, bins: Succinct) -> tuple[str, ...]:
        """Those of the bins whose newest accepted metadata delegates anything."""

    def material(self, fingerprint: str) -> Material | None:
        """Whose key material this is and what it was ever listed for; None: nobody's."""

    def reservation(
        self, repository: str, role: str, epoch: int, version: int
    ) -> Reservation | None: ...

    def newest_pending(
        self, repository: str, role: str, epoch: int, above: int
    ) -> Reservation | None:
        """The highest version above `above` that is bound and neither accepted nor voided."""

    def versions(
        self, repository: str, wanted: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], VersionRecord]:
        """Recorded versions in each role's current epoch; unknown ones are left out."""

    def lost_version(
        self, repository: str, role: str, epoch: int, version: int
    ) -> LostVersions | None:
        """The lost versions that this one is among: what was signed for it is not known here."""

    def accepted_before(
        self, repository: str, role: str, epoch: int, version: int
    ) -> tuple[int, int] | None:
        """Epoch and version of the newest accepted version older than this one."""

    def signed_by(self, fingerprint: str) -> tuple[SignedVersion, ...]:
        """Every version that a key has signed, the newest first."""

    def signatures(self, reservation: Reservation) -> tuple[StoredSignature, ...]: ...

    def payload(self, digest: str) -> bytes:
        """A payload recorded under its SHA-256 (hex). Raises: StateCorrupt if it is not there."""

    def request(self, principal: str, request_id: str) -> RequestRecord | None: ...

    def opaque(self, key: str, digest: str) -> OpaqueSignature | None: ...

    def open_intents(self) -> tuple[Intent, ...]: ...

    def deletion(self, key: str) -> Intent | None:
        """The last announced deletion of a key pair."""

    def rotation(self, name: str) -> Rotation | None: ...

    def open_rotation(self, repository: str) -> Rotation | None:
        """The one rotation that may change the repository's roles now."""

    def rotations(self, repository: str) -> tuple[Rotation, ...]:
        """All of a repository, oldest first."""

    def retiring_rotations(self) -> tuple[Rotation, ...]: ...

    def rotation_files(self, rotation: str) -> tuple[RotationFile, ...]:
        """What its signing steps were bound to, by step."""

    def rotation_file(self, rotation: str, step: int) -> RotationFile | None:
        """One of them: there may be thousands."""

    def officers(self) -> OfficerSet: ...

    def base_threshold(self) -> int:
        """How many officers every loosening needs; 0: there are no officers yet."""

    def proposal(self, name: str) -> Proposal | None: ...

    def proposals(self, operation_sha256: str = "") -> tuple[Proposal, ...]:
        """Those that ever were, of one operation or of all, oldest first."""

    def open_proposals(self, operation_sha256: str = "") -> tuple[Proposal, ...]:
        """Those that are not decided, of one operation or of all, oldest first."""

    def approvals(self, proposal: str) -> tuple[Approval, ...]:
        """What officers said, rejections included, oldest first."""

    def setting(self, name: str) -> str | None:
        """A ledger-wide setting, e.g. "log_key", "policy_digest"."""

    def log_size(self) -> int: ...

    def leaves(self, start: int, end: int) -> Iterator[Leaf]:
        """Leaves start..end-1 in order."""


class Transaction(View, Protocol):
    """Writing, all or nothing. Reads see its own writes."""

    def put_key(self, key: Key) -> None: ...

    def put_repository(self, repository: Repository) -> None:
        """Insert or update; raises the repository's revision."""

    def put_role(self, role: Role) -> None:
        """Insert or update; raises the role's and its repository's revision."""

    def claim_material(self, fingerprint: str, repository: str, use: str) -> str:
        """Bind key material to a repository unless it is bound; return the owner.

        `use` is a top-level role name or "delegated"; it is added when the owner is `repository`.
        """

    def put_delegations(
        self, repository: str, delegator: str, delegations: Sequence[Delegation]
    ) -> None:
        """Replace what `delegator`'s accepted metadata delegates."""

    def put_reservation(self, reservation: Reservation, payload: bytes) -> None:
        """Insert, or update its state; (repository, role, epoch, version) is unique: the lock.

        A new one raises the role's high-water mark, and the revisions of role and repository.
        """

    def put_signature(self, reservation: Reservation, signature: StoredSignature) -> None: ...

    def put_version(self, record: VersionRecord) -> None:
        """What is known of an accepted or imported version, file facts included."""

    def put_request(self, record: RequestRecord) -> None: ...

    def put_opaque(self, record: OpaqueSignature) -> None: ...

    def put_intent(self, intent: Intent) -> None: ...

    def put_rotation(self, rotation: Rotation) -> None:
        """Insert, or update its state; one rotation of a repository is open at most: the lock."""

    def put_rotation_file(self, file: RotationFile) -> None: ...

    def put_officer(self, officer: Officer, leaf: int) -> None:
        """Insert or change; `leaf` is the entry that says so."""

    def put_base_threshold(self, threshold: int, leaf: int) -> None: ...

    def put_proposal(self, proposal: Proposal) -> None:
        """Insert, or update its state; a decided proposal stays as it is."""

    def put_approval(self, approval: Approval) -> None:
        """One for each proposal and officer, for ever."""

    def put_setting(self, name: str, value: str) -> None: ...

    def append(self, entry: Entry) -> int:
        """Append a log leaf; returns its index (the first is 0)."""


class Rehearsal(Protocol):
    """Clients that nobody depends on yet."""

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        """What stock clients of every earlier state make of the files; touches no network."""


class Ledger(Protocol):
    """State and audit log behind one transaction.

    Work from several callers is committed as one group; each piece can be undone by itself,
    so one refusal does not touch its neighbours. A return means durable (flushed to the medium)
    and known to the anchor.
    """

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run, commit, flush. Raises what `work` raises (then nothing of it is stored)."""

    def transact_each(self, works: Sequence[Callable[[Transaction], T]]) -> list[T | Exception]:
        """Many pieces in one group, in order; a KeydError stands for each that refused."""

    def read(self, work: Callable[[View], T]) -> T:
        """Run on a consistent snapshot without waiting for writers."""

    def checkpoint(self) -> Checkpoint | None:
        """The newest signed checkpoint."""

    def unsigned_checkpoint(self) -> Checkpoint:
        """Origin, size and root of the log now, to be signed by the log key."""

    def put_checkpoint(self, checkpoint: Checkpoint) -> None: ...

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """RFC 6962 2.1.1 audit path, 32 bytes each. Raises: InvalidRequest."""

    def consistency_proof(self, first: int, second: int) -> tuple[bytes, ...]:
        """RFC 6962 2.1.2 proof, 32 bytes each. Raises: InvalidRequest."""

    def refusal(self) -> str | None:
        """Why nothing may be signed (behind its anchor, contradiction), or None."""

    def close(self) -> None: ...
