"""The files of a rotation, judged as clients will judge them before any of it is published.

What a daemon calls a file is checked against what was signed, and the whole that comes of it is
walked from the published root, as TUF 5.3 to 5.6 say. So a daemon that somebody else leads can
neither break the published repository with files that were genuine once, nor take it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from keyd_client.errors import AnswerMismatch, InvalidRequest, PolicyViolation
from keyd_client.messages import RotationFile
from keyd_client.roles import TOP_LEVEL, delegated_by

_REPORT = "report this, publish nothing"
_GO_ON = "continue the rotation, then apply it again"


class Published(Protocol):
    """The published files."""

    def read(self, role: str, version: int = 0) -> bytes | None:
        """A version of a role, 0: the newest; None if it is not there. Timestamps have only one."""
        ...


@dataclass(frozen=True)
class Judged:
    """What is to be written, in no order but roots upwards; and where lowered roles end."""

    fresh: Sequence[RotationFile]
    lowered: Mapping[str, int]


@dataclass(frozen=True)
class _Brought:
    """A file of the rotation; what it was signed as fits its label."""

    file: RotationFile
    metadata: Metadata[Any]


@dataclass(frozen=True)
class _Whole:
    """The repository as it will be: published files with those of the rotation laid over them.

    `settled`: those who hold the keys of the rotation's last root publish under it already.
    """

    published: Published
    brought: Mapping[str, _Brought]
    root: Root
    lower: Mapping[str, int]
    settled: bool
    before: Mapping[str, MetaFile] = field(default_factory=dict)

    def content(self, role: str, version: int = 0) -> bytes | None:
        found = self.brought.get(role)
        if found is not None and version in (0, found.file.version):
            return found.file.content
        return self.published.read(role, version)


def judge(
    published: Published, files: Sequence[RotationFile], lower: Mapping[str, int], now: datetime
) -> Judged:
    """Judge all files of a rotation; versions of roles in `lower` may go down to those given there.

    That is for numbers that the new keys did not make: once they publish, nothing goes down.
    Raises: AnswerMismatch (a file is not what it is called), InvalidRequest (ROOT_NOT_LOWERED,
    ROLE_UNKNOWN), PolicyViolation (ROTATION_OVERTAKEN, ROTATION_FILES_EXPIRED,
    ROTATION_UNFIT, THRESHOLD_NOT_REACHED).
    """
    if "root" in lower:
        raise InvalidRequest("ROOT_NOT_LOWERED", "root versions cannot be lowered")
    roots = sorted(_read(files, only_root=True), key=lambda each: each.file.version)
    others: dict[str, _Brought] = {}
    for each in _read(files, only_root=False):
        if others.setdefault(each.file.role, each) is not each:
            raise AnswerMismatch("ECHO_MISMATCH", f"{each.file.role} comes twice: {_REPORT}")
    root, fresh = _walk(published, roots)
    settled = bool(roots) and not fresh and _is_vouched_for(published, root)
    whole = _Whole(published, others, root, {} if settled else lower, settled)
    fresh += [each for each in others.values() if not _is_here(whole, each)]
    # A root's version cannot be skipped, and the next root mends one that has expired.
    for each in fresh:
        if each.file.role != Root.type and each.metadata.signed.is_expired(now):
            raise PolicyViolation(
                "ROTATION_FILES_EXPIRED",
                f"clients would refuse {_words(each)}, which has expired: {_GO_ON}",
            )
    ends = _check_whole(whole)
    _check_ends(whole, ends)
    return Judged([each.file for each in fresh], {role: ends[role] for role in whole.lower})


def _read(files: Sequence[RotationFile], *, only_root: bool) -> Iterator[_Brought]:
    for file in files:
        if (file.role == Root.type) is only_root:
            metadata = _parsed(file.content, f"the file called {file.role} {file.version}")
            signed = metadata.signed
            kind = file.role if file.role in TOP_LEVEL else Targets.type
            if (signed.type, signed.version) != (kind, file.version):
                raise AnswerMismatch(
                    "ECHO_MISMATCH",
                    f"the file called {file.role} {file.version} holds {signed.type} "
                    f"{signed.version}: {_REPORT}",
                )
            yield _Brought(file, metadata)


def _parsed(content: bytes, what: str) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(content)
    except DeserializationError as error:
        raise AnswerMismatch("ECHO_MISMATCH", f"{what} is no metadata: {_REPORT}") from error


def _walk(published: Published, roots: Sequence[_Brought]) -> tuple[Root, list[_Brought]]:
    """From the published root to the last that comes, each signed by the one before (TUF 5.3)."""
    here = published.read(Root.type)
    if here is None:
        raise PolicyViolation("ROTATION_UNFIT", "no root is published here that could be followed")
    root: Root = _parsed(here, "the published root").signed
    fresh = []
    for each in roots:
        version = each.file.version
        if version <= root.version:
            known = published.read(Root.type, version)
            if known is not None and not _same(known, each):
                raise AnswerMismatch(
                    "ECHO_MISMATCH", f"root {version} is published with other content: {_REPORT}"
                )
            continue
        if version != root.version + 1:
            raise PolicyViolation(
                "ROTATION_UNFIT", f"root {version} cannot follow the published {root.version}"
            )
        for delegator in (root, each.metadata.signed):
            _check_signed(delegator, Root.type, each.metadata)
        root = each.metadata.signed
        fresh.append(each)
    return root, fresh


def _same(content: bytes, each: _Brought) -> bool:
    """Whether the same was signed: signatures of one root may be written in another order."""
    signed = _parsed(content, "the published root").signed_bytes
    return bool(signed == each.metadata.signed_bytes)


def _is_vouched_for(published: Published, root: Root) -> bool:
    """Whether timestamp and snapshot are the work of these keys; a recovery may leave one as is."""
    timestamp = published.read(Timestamp.type)
    if timestamp is None:
        return False
    first = _parsed(timestamp, "the published timestamp")
    snapshot = published.read(Snapshot.type, first.signed.snapshot_meta.version)
    if snapshot is None:
        return False
    both = (first, _parsed(snapshot, "the published snapshot"))
    return all(
        root.get_verification_result(each.signed.type, each.signed_bytes, each.signatures)
        for each in both
    )


def _is_here(whole: _Whole, each: _Brought) -> bool:
    """Whether a file is published already. Raises: PolicyViolation (ROTATION_OVERTAKEN)."""
    role, version = each.file.role, each.file.version
    if role in whole.lower:
        return whole.published.read(role, version) == each.file.content
    newest = whole.published.read(role)
    if newest is None or newest == each.file.content:
        return newest is not None
    highest = _parsed(newest, f"the published {role}").signed.version
    _check_not_below(whole, role, version, highest + 1, f"{highest} is published")
    return False


def _check_not_below(whole: _Whole, role: str, version: int, least: int, found: str) -> None:
    """Only what the caller lowers goes back; how far, `_check_ends` looks."""
    if version >= least or role in whole.lower:
        return
    if whole.settled:
        way = f"and the new keys are in use: {_GO_ON}, or take away a thief's file that is left"
    else:
        way = (
            f"if that is yours, {_GO_ON}; if it is a thief's, name {role} in apply(…, lower="
            "{…}), with the version of the plan or of your last good file"
        )
    raise PolicyViolation(
        "ROTATION_OVERTAKEN", f"the rotation has {role} {version}, but {found}; {way}"
    )


def _check_ends(whole: _Whole, ends: Mapping[str, int]) -> None:
    """Lowered roles are there, and not below what the caller lets them go down to."""
    for role, least in whole.lower.items():
        if role not in ends:
            raise InvalidRequest("ROLE_UNKNOWN", f"there is no {role} that could be lowered")
        if ends[role] < least:
            raise PolicyViolation(
                "ROTATION_OVERTAKEN",
                f"the rotation has {role} {ends[role]}, and `lower` lets it go down to {least} "
                "only: compare with the plan",
            )


def _check_whole(whole: _Whole) -> dict[str, int]:
    """A client that holds only the new root takes everything; returns each role's version."""
    content = whole.content(Timestamp.type)
    if content is None:
        _check_none_left(whole, {})
        return {}
    timestamp = _parsed(content, "the published timestamp")
    _check_signed(whole.root, Timestamp.type, timestamp)
    before = _published_snapshot(whole, timestamp.signed.snapshot_meta)
    whole = replace(whole, before=before)
    snapshot = _listed(whole, Snapshot.type, timestamp.signed.snapshot_meta)
    if snapshot is None:
        raise PolicyViolation("ROTATION_UNFIT", "the timestamp's snapshot is not here")
    _check_signed(whole.root, Snapshot.type, snapshot)
    _check_entries(whole, snapshot.signed)
    top = {each.type: each.version for each in (timestamp.signed, snapshot.signed)}
    _check_none_left(whole, {**top, **dict(_check_targets(whole, snapshot.signed))})
    listed = snapshot.signed.meta.items()
    return {**{name.removesuffix(".json"): entry.version for name, entry in listed}, **top}


def _published_snapshot(whole: _Whole, listed: MetaFile) -> Mapping[str, MetaFile]:
    """The entries of the published snapshot, which the new one may not be below (TUF 5.4.3.2)."""
    here = whole.published.read(Timestamp.type)
    if here is None:
        return {}
    before = _parsed(here, "the published timestamp").signed.snapshot_meta
    found = f"the published timestamp lists {before.version}"
    _check_not_below(whole, Snapshot.type, listed.version, before.version, found)
    content = whole.published.read(Snapshot.type, before.version)
    entries = _parsed(content, "the published snapshot").signed.meta if content else {}
    return {**entries, f"{Snapshot.type}.json": before}


def _check_entries(whole: _Whole, snapshot: Snapshot) -> None:
    """What a client knows of the published snapshot does not go back (TUF 5.5.5)."""
    for name, before in whole.before.items():
        role = name.removesuffix(".json")
        if role == Snapshot.type:
            continue
        if name in snapshot.meta:
            found = f"the published snapshot lists {before.version}"
            _check_not_below(whole, role, snapshot.meta[name].version, before.version, found)
        elif Snapshot.type not in whole.lower:
            raise PolicyViolation("ROTATION_UNFIT", f"the snapshot does not list {role} any more")


def _check_targets(whole: _Whole, snapshot: Snapshot) -> Iterator[tuple[str, int]]:
    """Targets and what it delegates, as the snapshot lists them; yields the versions that fit."""
    delegators: dict[str, Root | Targets] = {Targets.type: whole.root}
    waiting = [Targets.type]
    for role in waiting:
        entry = snapshot.meta.get(f"{role}.json")
        metadata = _listed(whole, role, entry) if entry is not None else None
        if metadata is None:
            continue
        # Another role that is not signed anew may have been without enough signatures before.
        if role == Targets.type or role in whole.brought:
            _check_signed(delegators[role], role, metadata)
        yield role, metadata.signed.version
        new = [name for name in delegated_by(metadata.signed) if name not in delegators]
        delegators.update(dict.fromkeys(new, metadata.signed))
        waiting.extend(new)


def _listed(whole: _Whole, role: str, entry: MetaFile) -> Metadata[Any] | None:
    """The metadata that an entry names; None if it was not there before, and nothing changed."""
    content = whole.content(role, entry.version)
    try:
        if content is None:
            raise LengthOrHashMismatchError("it is not here")
        entry.verify_length_and_hashes(content)
        metadata = _parsed(content, f"the published {role}")
        if metadata.signed.version != entry.version:
            raise LengthOrHashMismatchError(f"it holds version {metadata.signed.version}")
    except LengthOrHashMismatchError as error:
        if not whole.lower and whole.before.get(f"{role}.json") == entry:
            return None
        words = f"{role} {entry.version} is not what clients will look for: {error}"
        raise PolicyViolation("ROTATION_UNFIT", f"{words}; {_REPORT}") from error
    return metadata


def _check_none_left(whole: _Whole, taken: Mapping[str, int]) -> None:
    for role, each in whole.brought.items():
        if taken.get(role) != each.file.version:
            raise PolicyViolation("ROTATION_UNFIT", f"no client would find {_words(each)}")


def _check_signed(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
    if not delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
        raise PolicyViolation(
            "THRESHOLD_NOT_REACHED",
            f"{role} {metadata.signed.version} is not signed by enough keys",
        )


def _words(each: _Brought) -> str:
    return f"{each.file.role} {each.file.version}"
