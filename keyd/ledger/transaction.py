"""Writing the ledger through the one writing connection: the `Transaction` port."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from keyd.domain import merkle
from keyd.domain.audit import Checkpoint, Entry
from keyd.domain.checkpoint import parse_checkpoint
from keyd.domain.keys import Key
from keyd.domain.officers import Officer
from keyd.domain.operations import officer_text
from keyd.domain.records import (
    Delegation,
    Intent,
    LostVersions,
    OpaqueSignature,
    PinAttempt,
    Repository,
    RequestRecord,
    Role,
    TokenIdentity,
)
from keyd.domain.records_quorum import Approval, Proposal
from keyd.domain.records_rotation import Rotation, RotationFile
from keyd.errors import AlreadyExists, StateCorrupt
from keyd.ledger import codec, officers, rotations
from keyd.ledger.codec import time_text
from keyd.ledger.known import Known
from keyd.ledger.log import PendingLog, StoredLog
from keyd.ledger.marks import Mark
from keyd.ledger.request_ids import forget_old
from keyd.ledger.staging import INTENTS, REQUESTS
from keyd.ledger.versions import VersionWriting, invariant

PUT_SETTING = (
    "INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_RAISE_REVISION = "UPDATE repositories SET revision = revision + 1 WHERE name = ?"
# One look-up for each delegator, however many roles it has.
_DELEGATING = """
WITH RECURSIVE found(delegator) AS (
    SELECT min(delegator) FROM delegations WHERE repository = :repository AND delegator > ''
    UNION ALL
    SELECT (SELECT min(delegator) FROM delegations
        WHERE repository = :repository AND delegator > found.delegator)
    FROM found WHERE found.delegator IS NOT NULL
)
SELECT delegator FROM found WHERE delegator IS NOT NULL
"""
_DROP_DELEGATION = (
    "DELETE FROM delegations WHERE repository = ? AND delegator = ? AND role = ? "
    "AND bit_length = ? AND fingerprint = ?"
)
_ADD_DELEGATION = "INSERT INTO delegations VALUES (?, ?, ?, ?, ?)"


class SqliteTransaction(VersionWriting):
    """One group's transaction; `note` is the checkpoint it stores, for the anchor.

    Most rows wait for `flush`, which everybody who commits calls first.
    """

    note = ""

    def __init__(
        self, connection: sqlite3.Connection, log: PendingLog, known: Known | None = None
    ) -> None:
        super().__init__(connection, log, known)
        self._requests_at: list[datetime] = []
        self._requests_before = 0

    def begin_piece(self) -> None:
        super().begin_piece()
        self._requests_before = len(self._requests_at)

    def undo_piece(self) -> None:
        super().undo_piece()
        del self._requests_at[self._requests_before :]

    def flush(self) -> merkle.Frontier:
        """Write what was put off and the log's new leaves; return the frontier of the whole log.

        Raises: sqlite3.IntegrityError when a row contradicts the ledger.
        """
        for repository in self._changed:
            self._connection.execute(_RAISE_REVISION, (repository,))
        self._staging.flush()
        forget_old(self._connection, self._requests_at)
        return self._pending.flush()

    def append(self, entry: Entry) -> int:
        return self._pending.append(entry)

    def put_setting(self, name: str, value: str) -> None:
        self._change(PUT_SETTING, (name, value))

    # --- keys ---------------------------------------------------------------------------------

    def put_key(self, key: Key) -> None:
        """Insert, or update the state; all else of a key is for ever.

        Raises: AlreadyExists (KEY_EXISTS) when the name, the key material or the place on the
        token is another key's.
        """
        found = self.key(key.name)
        if found is None:
            self._insert_key(key)
        elif replace(found, state=key.state) == key:
            self._change("UPDATE keys SET state = ? WHERE name = ?", (key.state.value, key.name))
        else:
            raise AlreadyExists("KEY_EXISTS", f"another key is named {key.name!r}; choose a name")
        self._known.put(self._known.keys, key.name, key)

    def _insert_key(self, key: Key) -> None:
        try:
            self._change(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                codec.key_row(key),
            )
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(
                "KEY_EXISTS",
                f"key {key.name!r} is the same key pair, or lies at the same place of token "
                f"{key.token!r}, as a key that is registered already",
            ) from error

    def claim_material(self, fingerprint: str, repository: str, use: str) -> str:
        found = self.material(fingerprint)
        if found is None:
            self._change(
                "INSERT INTO material VALUES (?, ?, ?)",
                (fingerprint, repository, codec.uses_text([use])),
            )
            return repository
        if found.repository == repository and use not in found.uses:
            self._change(
                "UPDATE material SET uses = ? WHERE fingerprint = ?",
                (codec.uses_text({*found.uses, use}), fingerprint),
            )
        return found.repository

    def put_delegations(
        self, repository: str, delegator: str, delegations: Sequence[Delegation]
    ) -> None:
        delegating = self._delegating(repository)
        if not delegations and delegator not in delegating:
            return
        # Thousands of bins rarely change at once: write the difference only.
        before = {
            (d.role, d.bit_length, d.fingerprint)
            for d in self.delegations_by(repository, delegator)
        }
        after = {(d.role, d.bit_length, d.fingerprint) for d in delegations}
        self._staging.protect()
        for sql, rows in ((_DROP_DELEGATION, before - after), (_ADD_DELEGATION, after - before)):
            self._connection.executemany(sql, [(repository, delegator, *row) for row in rows])
        now = delegating | {delegator} if delegations else delegating - {delegator}
        self._known.put(self._known.delegating, repository, now)

    def _delegating(self, repository: str) -> frozenset[str]:
        known = self._known.delegating
        if repository not in known:
            rows = self._execute(_DELEGATING, {"repository": repository}).fetchall()
            known[repository] = frozenset(delegator for (delegator,) in rows)
        return known[repository]

    # --- repositories and roles ---------------------------------------------------------------

    def put_repository(self, repository: Repository) -> None:
        intended = repository.intended_root
        self._change(
            "INSERT INTO repositories VALUES (?, ?, ?, ?, ?, ?, 1) "
            "ON CONFLICT (name) DO UPDATE SET state = excluded.state, "
            "development = excluded.development, imported = excluded.imported, "
            "intended_root = excluded.intended_root, revision = revision + 1",
            (
                repository.name,
                repository.state.value,
                repository.development,
                repository.imported,
                time_text(repository.created_at),
                None if intended is None else codec.key_sets_text([intended]),
            ),
        )

    def put_role(self, role: Role) -> None:
        """Marks and epochs only rise (else LEDGER_INVARIANT); a new role starts above lost ones."""
        known = self.role(role.repository, role.name)
        high_water = max(role.high_water, self._lost_mark(role.repository, role.name, role.epoch))
        if known is not None and (role.epoch, high_water) < (known.epoch, known.high_water):
            raise invariant(f"the mark of {role.repository}/{role.name} only rises")
        revision = known.revision if known else 0
        if role.revision != revision:
            role = replace(role, revision=revision)
        self._stage_role(role, high_water)
        self._changed.add(role.repository)
        if role.high_water:
            self.marks.append(Mark(role.repository, role.name, role.epoch, role.high_water, ""))

    # --- requests and token calls -------------------------------------------------------------

    def put_request(self, record: RequestRecord) -> None:
        self._requests_at.append(record.at)
        self._staging.put(
            REQUESTS,
            (
                record.principal,
                record.request_id,
                record.body_digest,
                record.outcome,
                time_text(record.at),
            ),
        )

    def request(self, principal: str, request_id: str) -> RequestRecord | None:
        self._staging.settle()
        return super().request(principal, request_id)

    def put_opaque(self, record: OpaqueSignature) -> None:
        """Insert, or add the signature; a recorded signature stays."""
        self._change(
            "INSERT INTO opaque_signatures VALUES (?, ?, ?, ?, ?) ON CONFLICT (key, digest) "
            "DO UPDATE SET signature = excluded.signature, leaf = excluded.leaf, "
            "made_at = excluded.made_at WHERE signature IS NULL",
            (record.key, record.digest, record.signature, record.leaf, time_text(record.made_at)),
        )

    def put_intent(self, intent: Intent) -> None:
        self._staging.put(
            INTENTS,
            (
                intent.leaf,
                intent.kind.value,
                intent.key,
                intent.subject,
                intent.digest,
                intent.state.value,
            ),
        )

    def open_intents(self) -> tuple[Intent, ...]:
        self._staging.settle()
        return super().open_intents()

    def deletion(self, key: str) -> Intent | None:
        self._staging.settle()
        return super().deletion(key)

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint of entries that are committed already.

        Raises: StateCorrupt (LEDGER_INVARIANT) unless note, origin, size and root are this log's.
        """
        named = parse_checkpoint(checkpoint.note)
        log = StoredLog(self._connection)
        known = 0 < named.size <= log.size()
        if (
            named != checkpoint
            or named.origin != self.identity().origin
            or not known
            or merkle.root_at(log.subtree, named.size) != named.root
        ):
            raise StateCorrupt(
                "LEDGER_INVARIANT", f"the checkpoint of size {named.size} is not of this log"
            )
        self._change(
            "INSERT INTO checkpoints VALUES (?, ?, ?) "
            "ON CONFLICT (size) DO UPDATE SET note = excluded.note",
            (named.size, named.root, named.note),
        )
        self.note = named.note

    # --- rotations ----------------------------------------------------------------------------

    def put_rotation(self, rotation: Rotation) -> None:
        """Insert, or update the state.

        Raises: AlreadyExists (ROTATION_OPEN) when another one of the repository is open.
        """
        found = self.open_rotation(rotation.repository)
        if rotation.state.is_open and found is not None and found.name != rotation.name:
            raise AlreadyExists(
                "ROTATION_OPEN",
                f"rotation {found.name} of {rotation.repository!r} is not finished: continue or "
                "cancel it first",
                details={"rotation": found.name},
            )
        self._change(rotations.PUT_ROTATION, rotations.rotation_row(rotation))

    def put_rotation_file(self, file: RotationFile) -> None:
        """Insert, or take another version; the content of a version stays once it is there."""
        self._staging.settle()
        self._change(rotations.PUT_FILE, rotations.file_row(file))

    # --- officers -----------------------------------------------------------------------------

    def put_officer(self, officer: Officer, leaf: int) -> None:
        self._change(officers.PUT_OFFICER, (officer.name, officer_text(officer), leaf))

    def put_base_threshold(self, threshold: int, leaf: int) -> None:
        self._change(officers.PUT_BASE_RULE, (threshold, leaf))

    def put_proposal(self, proposal: Proposal) -> None:
        """Insert, or update the state."""
        self._change(officers.PUT_PROPOSAL, officers.proposal_row(proposal))

    def put_approval(self, approval: Approval) -> None:
        self._change(officers.PUT_APPROVAL, officers.approval_row(approval))

    # --- repair -------------------------------------------------------------------------------

    def put_lost(self, lost: LostVersions) -> None:
        """Take versions for used; raises the mark of the role, if the ledger still knows it."""
        self._change(
            "INSERT INTO lost_versions VALUES (?, ?, ?, ?, ?, ?, ?)",
            (lost.repository, lost.role, lost.epoch, lost.first, lost.last, lost.digest, lost.leaf),
        )
        self._known.lost = None
        role = self.role(lost.repository, lost.role)
        if role is not None and (role.epoch, role.high_water) < (lost.epoch, lost.last):
            self.put_role(replace(role, epoch=lost.epoch, high_water=lost.last))

    def put_origin(self, origin: str) -> None:
        """Give the log another name."""
        self._change("UPDATE identity SET origin = ?", (origin,))

    # --- tokens -------------------------------------------------------------------------------

    def put_token_identity(self, identity: TokenIdentity) -> None:
        self._change(
            "INSERT INTO token_identities VALUES (?, ?, ?, ?, ?)",
            (
                identity.token,
                identity.serial,
                identity.label,
                identity.manufacturer,
                identity.model,
            ),
        )

    def put_pin_attempt(self, attempt: PinAttempt | None, token: str) -> None:
        self._change("DELETE FROM pin_attempts WHERE token = ?", (token,))
        if attempt is not None:
            self._change(
                "INSERT INTO pin_attempts VALUES (?, ?, ?, ?, ?)",
                (
                    token,
                    attempt.credential,
                    attempt.rejected,
                    time_text(attempt.at),
                    codec.details_text(attempt.details),
                ),
            )

    def put_quarantine(self, token: str, reason: str | None) -> None:
        self._change("DELETE FROM quarantines WHERE token = ?", (token,))
        if reason is not None:
            self._change("INSERT INTO quarantines VALUES (?, ?)", (token, reason))
