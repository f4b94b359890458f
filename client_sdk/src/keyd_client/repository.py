"""KeydRepository: a TUF repository in a directory, every signature made by a keyd daemon.

Needs ``keyd-client[tuf]``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.repository import Repository

from keyd_client.applying import judge
from keyd_client.client import shared_client
from keyd_client.errors import (
    AlreadyExists,
    AnswerMismatch,
    Equivocation,
    InvalidRequest,
    PolicyViolation,
)
from keyd_client.keyring import Delegator, Keyring
from keyd_client.messages import MetadataSignature
from keyd_client.pending import awaitable
from keyd_client.profile import Profile
from keyd_client.roles import EXPIRY, TOP_LEVEL, RoleKeys, delegated_by, delegates, unborn
from keyd_client.signer import Confirm
from keyd_client.store import RepositoryStore

__all__ = ["KeydRepository", "RoleKeys"]


@dataclass
class _Staged:
    """A signed file on its way to the disk; `imported` once the daemon knows its hash."""

    version: int
    content: bytes
    imported: bool = False


class KeydRepository(Repository):
    """A repository below `directory` (metadata/, targets/) of the daemon that `profile` leads to.

    `edit_*` of python-tuf bump the version, set the expiry and have the role signed by every key
    that its delegator lists and the daemon holds. What is signed is staged; `do_timestamp` or
    `publish` bring all of it to the disk at once, timestamp last, so that clients never see half
    an edit. One process edits at a time; discard the object after an error.

    `expiry` overrides how long a role lives, by role name; delegated roles live as long as
    targets. `confirm_root_change` is shown each difference to the trusted root, one per line,
    before root N+1 is signed; without it root can only be signed once.

    A version that the daemon has bound to other bytes, because an earlier run signed it and died,
    is skipped: the next free one is used. Root versions cannot be skipped: `take_recorded("root")`
    goes on with the recorded one. Methods raise `keyd_client.errors.KeydClientError`.
    """

    def __init__(
        self,
        directory: str | Path,
        profile: str | Profile,
        repository: str = "",
        *,
        expiry: Mapping[str, timedelta] | None = None,
        confirm_root_change: Confirm | None = None,
    ) -> None:
        self._client = shared_client(profile)
        self._name = repository or self._client.profile.repository
        if not self._name:
            raise InvalidRequest(
                "REPOSITORY_MISSING", "name a repository, or a default one in the client profile"
            )
        self._store = RepositoryStore(Path(directory))
        self._keyring = Keyring(profile, self._name)
        self._expiry = {**EXPIRY, **(expiry or {})}
        self._confirm = confirm_root_change
        self._staged: dict[str, list[_Staged]] = {}
        self._parsed: dict[str, tuple[bytes, Targets]] = {}

    # --- what python-tuf asks for ---------------------------------------------------------------

    def open(self, role: str) -> Metadata[Any]:
        """The newest metadata of a role, staged or on disk, or a first version from scratch."""
        content = self._content(role)
        return Metadata.from_bytes(content) if content is not None else unborn(role)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Bump, set the expiry, have it signed, stage it; a timestamp publishes all that is staged.

        Raises: ApprovalPending (its `pending.wait` goes on with this edit), Equivocation (root, or
        somebody else signs this repository right now), ChangeNotConfirmed, PolicyViolation,
        NotAllowed, BackendUnavailable.
        """
        if role == Root.type and not md.signed.consistent_snapshot:
            raise InvalidRequest(
                "CONSISTENT_SNAPSHOT_REQUIRED", "KeydRepository writes consistent snapshots only"
            )
        lifetime = self._expiry.get(role, self._expiry["targets"])
        md.signed.version += 1
        md.signed.expires = datetime.now(UTC).replace(microsecond=0) + lifetime
        try:
            self._finish(role, md)
        except Equivocation as taken:
            if role == Root.type or "next_version" not in taken.details:
                raise
            md.signed.version = int(taken.details["next_version"])
            self._finish(role, md)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """Version, length and SHA-256 of every targets role that has metadata."""
        roles = [role for role in self._targets_roles() if self._content(role) is not None]
        return {f"{role}.json": self._info(role) for role in roles}

    @property
    def snapshot_info(self) -> MetaFile:
        """Version, length and SHA-256 of the snapshot."""
        return self._info(Snapshot.type)

    def do_snapshot(self, force: bool = False) -> tuple[bool, dict[str, MetaFile]]:
        """As in python-tuf, after telling the daemon the targets files that will be listed."""
        self._import(self._targets_roles())
        return super().do_snapshot(force)

    def do_timestamp(self, force: bool = False) -> tuple[bool, MetaFile | None]:
        """As in python-tuf, after telling the daemon the snapshot file; then all is published."""
        self._import([Snapshot.type])
        return super().do_timestamp(force)

    # --- what people do -------------------------------------------------------------------------

    def initialize(self, roles: Mapping[str, RoleKeys], *, development: bool = False) -> None:
        """Announce the repository to the daemon and sign root 1 for the four top-level `roles`.

        Needs the local administrator's socket. After a failure it may be called again with the
        same roles. `publish` does the rest.
        """
        if set(roles) != set(TOP_LEVEL):
            raise InvalidRequest("ROLE_SET_WRONG", f"give keys to exactly {', '.join(TOP_LEVEL)}")
        wanted = self.open(Root.type).signed
        for role, keys in roles.items():
            self._give(wanted, role, keys)
        self._bootstrap(roles[Root.type], development)
        try:
            with self.edit_root() as root:
                root.roles, root.keys = wanted.roles, wanted.keys
        except Equivocation:
            self.take_recorded(Root.type)
            if (self.root().roles, self.root().keys) != (wanted.roles, wanted.keys):
                raise

    def _bootstrap(self, keys: RoleKeys, development: bool) -> None:
        try:
            self._client.repositories.bootstrap(
                self._name, keys.keys, keys.threshold, development=development
            )
        except AlreadyExists:
            if self._content(Root.type) is not None:
                raise

    def set_role_keys(self, role: str, keys: RoleKeys) -> None:
        """Give a top-level role other keys in a new root version (its change is confirmed)."""
        with self.edit_root() as root:
            self._give(root, role, keys)

    def delegate(
        self,
        name: str,
        keys: RoleKeys,
        paths: Sequence[str],
        *,
        parent: str = "targets",
        terminating: bool = False,
    ) -> None:
        """Let a new role `name` speak for target `paths` (shell patterns, TUF 4.5)."""
        with self.edit_targets(parent) as targets:
            public = [self._keyring.public_key(key) for key in keys.keys]
            keyids = [key.keyid for key in public]
            role = DelegatedRole(name, keyids, keys.threshold, terminating, list(paths))
            if targets.delegations is None:
                targets.delegations = Delegations({}, {})
            if targets.delegations.roles is None or name in targets.delegations.roles:
                raise AlreadyExists("ROLE_EXISTS", f"{parent} cannot delegate {name!r} once more")
            targets.delegations.roles[name] = role
            targets.delegations.keys.update({key.keyid: key for key in public})

    def add_targets(self, files: Mapping[str, bytes | Path], role: str = "targets") -> None:
        """Write target files (content, or a file to copy) and list them by path in one version."""
        with self.edit_targets(role) as targets:
            for path, content in files.items():
                if isinstance(content, Path):
                    target = TargetFile.from_file(path, str(content), ["sha256"])
                else:
                    target = TargetFile.from_data(path, content, ["sha256"])
                self._store.write_target(path, target.hashes["sha256"], content)
                targets.targets[path] = target

    def publish(self, renew_within: timedelta = timedelta(0)) -> None:
        """Bring everything that was edited to the clients; does nothing if nothing is due.

        Roles whose signatures do not fit their delegator any more, or that expire within
        `renew_within`, are signed anew on the way (not root: its changes are for people).
        """
        due = datetime.now(UTC) + renew_within
        for role in list(self._targets_roles()):
            if self._needs_signing(role, due):
                with self.edit(role):
                    pass
        self.do_snapshot(force=self._needs_signing(Snapshot.type, due))
        self.do_timestamp(force=self._needs_signing(Timestamp.type, due))
        self._release()

    def take_recorded(self, role: str) -> None:
        """Stage the version after ours as the daemon has it recorded, completing its signatures.

        For a run that died between signing and publishing. Raises: NotFound if there is none.
        """
        version = self.open(role).signed.version + 1
        recorded = self._client.get_signature(role, version, self._name)
        signed = json.loads(recorded.payload, strict=False)
        md: Metadata[Any] = Metadata.from_dict({"signed": signed, "signatures": []})
        if md.signed_bytes != recorded.payload:
            raise AnswerMismatch("ECHO_MISMATCH", f"the recorded {role} cannot be written as it is")
        self._sign(role, md)
        self._stage(role, md)

    def apply(self, rotation: str, *, lower: Mapping[str, int] | None = None) -> None:
        """Publish a rehearsed rotation, all of its files at once, and tell the daemon so.

        Fetches them, judges them as clients do that know the files here or only the root, and
        writes them; after a failure it may be called again. Nothing goes back, whatever the daemon
        says, but the roles that `lower` names, and not below the versions given there. Name those
        whose published number, or number in the published timestamp or snapshot, is a thief's, be
        it an emergency or a recovery, with the version of the plan or of the last good file. Once
        the new keys publish, nothing goes back. Edits that are not published yet are refused.
        Raises: PolicyViolation (THRESHOLD_NOT_REACHED, ROTATION_OVERTAKEN,
        ROTATION_FILES_EXPIRED, ROTATION_UNFIT), AnswerMismatch, InvalidRequest (EDITS_PENDING,
        ROOT_NOT_LOWERED, ROLE_UNKNOWN), AlreadyExists.
        """
        if self._staged:
            raise InvalidRequest(
                "EDITS_PENDING", "publish what was edited first: a rotation goes out by itself"
            )
        files = self._client.rotations.files(rotation)
        judged = judge(self._store, files, lower or {}, datetime.now(UTC))
        for file in judged.fresh:
            staged = self._staged.setdefault(file.role, [])
            staged.append(_Staged(file.version, file.content, imported=True))
        try:
            self._release(judged.lowered)
        finally:
            self._staged.clear()
        self._client.rotations.confirm_published(rotation)

    # --- signing --------------------------------------------------------------------------------

    def _finish(self, role: str, md: Metadata[Any]) -> None:
        def go_on(key: str) -> MetadataSignature:
            self._finish(role, md)
            return self._client.sign_metadata(
                key, md.signed_bytes, repository=self._name, role=role
            )

        with awaitable(self._client.proposals, go_on):
            self._sign(role, md)
        self._stage(role, md)
        if role == Timestamp.type:
            self._release()

    def _sign(self, role: str, md: Metadata[Any]) -> None:
        if role != Root.type:
            self._keyring.sign(role, md, [self._delegator(role)])
        elif md.signed.version == 1:
            self._keyring.sign(role, md, [md.signed])
        else:
            change = self._keyring.confirmed_root_change(md.signed_bytes, self._confirm)
            self._keyring.sign(role, md, [md.signed, self.root()], change)

    def _give(self, root: Root, role: str, keys: RoleKeys) -> None:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for name in keys.keys:
            root.add_key(self._keyring.public_key(name), role)
        root.roles[role].threshold = keys.threshold

    def _needs_signing(self, role: str, due: datetime) -> bool:
        if self._content(role) is None:
            return True
        md = self.open(role)
        result = self._delegator(role).get_verification_result(role, md.signed_bytes, md.signatures)
        return not result or md.signed.expires <= due

    # --- who delegates what ---------------------------------------------------------------------

    def _delegator(self, role: str) -> Delegator:
        if role in TOP_LEVEL:
            return self.root()
        for name in self._targets_roles():
            parent = self._seen(name)
            if delegates(parent, role):
                return parent
        raise InvalidRequest("ROLE_UNKNOWN", f"no role of {self._name} delegates {role!r}")

    def _targets_roles(self) -> Iterator[str]:
        """Targets and every delegated role, with metadata or without, delegators first."""
        waiting = deque(["targets"])
        seen = set(waiting)
        while waiting:
            role = waiting.popleft()
            yield role
            new = [name for name in delegated_by(self._seen(role)) if name not in seen]
            seen.update(new)
            waiting.extend(new)

    def _seen(self, role: str) -> Targets:
        """A targets role to look at, not to edit: large ones are parsed once."""
        content = self._content(role) or b""
        if role not in self._parsed or self._parsed[role][0] != content:
            self._parsed[role] = content, self.targets(role)
        return self._parsed[role][1]

    # --- files ----------------------------------------------------------------------------------

    def _content(self, role: str) -> bytes | None:
        staged = self._staged.get(role)
        return staged[-1].content if staged else self._store.read(role)

    def _info(self, role: str) -> MetaFile:
        content = self._content(role)
        if content is None:
            raise InvalidRequest("ROLE_UNKNOWN", f"{self._name} has no {role} metadata yet")
        version = Metadata.from_bytes(content).signed.version
        return MetaFile.from_data(version, content, ["sha256"])

    def _stage(self, role: str, md: Metadata[Any]) -> None:
        """Replace what was staged for the role; roots pile up, as clients need every one."""
        before = self._staged.get(role, []) if role == Root.type else []
        self._staged[role] = [*before, _Staged(md.signed.version, md.to_bytes())]

    def _import(self, roles: Iterable[str]) -> None:
        """Make staged files known to the daemon, so that it checks references by hash."""
        newest = {role: self._staged[role][-1] for role in roles if role in self._staged}
        fresh = {role: staged for role, staged in newest.items() if not staged.imported}
        files = [(role, staged.content) for role, staged in fresh.items()]
        for file in self._client.repositories.import_metadata(files, self._name):
            if not file.recorded:
                first = file.findings[0]
                raise PolicyViolation(first.reason, f"{file.role}: {first.message}")
        for staged in fresh.values():
            staged.imported = True

    def _release(self, lowered: Mapping[str, int] | None = None) -> None:
        """Write what is staged in an order that no client can mind (TUF 6.3.1 to 6.3.3).

        Where versions are `lowered`, root comes last: should this be cut short, whoever publishes
        next has no new keys until nothing is left that could be signed with them by mistake. A
        client that sees but one of root and timestamp keeps what it has, whichever it is.
        """
        last = [Snapshot.type, Root.type, Timestamp.type]
        if lowered:
            last = [Snapshot.type, Timestamp.type, Root.type]
        order = sorted(self._staged, key=lambda role: last.index(role) if role in last else -1)
        self._store.publish(
            [
                (role, staged.version, staged.content)
                for role in order
                for staged in self._staged[role]
            ],
            lowered=lowered,
        )
        self._staged.clear()
