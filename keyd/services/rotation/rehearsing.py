"""Before release: clients of every earlier state meet the files, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from keyd.domain.audit import Entry, Event
from keyd.domain.delegations import delegates
from keyd.domain.policy import Caller
from keyd.domain.records_rotation import Rotation, RotationFile, RotationState
from keyd.domain.rehearsal import Act, Play, SignedFile
from keyd.domain.trust import TOP_LEVEL, FileFacts
from keyd.errors import BackendUnavailable, PolicyViolation
from keyd.failpoints import Failpoint, failpoint
from keyd.ports import Transaction, View
from keyd.services.evidence import attached_delegators, role_or_new, trusted
from keyd.services.rotation.bound import is_made_by
from keyd.services.rotation.files import listed_in_order, published_file
from keyd.services.rotation.plans import still_open
from keyd.services.world import World

_PUBLISHED_LAST = ("snapshot", "root", "timestamp")
_RETRY_S = 2.0


def rehearse(world: World, caller: Caller, rotation: Rotation) -> tuple[Act, ...]:
    """Have the files met by stock clients, and release them if all goes as it must.

    Raises: PolicyViolation (REHEARSAL_FAILED), BackendUnavailable (ROTATION_MOVED,
    ROTATION_REHEARSING).
    """
    with world.rehearsed_now.mark(rotation.name) as first:
        if not first:
            # With thousands of bins it outlasts calls, and whoever calls again begins no other.
            raise BackendUnavailable(
                "ROTATION_REHEARSING",
                f"clients are meeting the files of {rotation.name} at this moment, for a call that "
                "began before: continue once they are through",
                retry_after_s=_RETRY_S,
            )
        return _rehearse(world, caller, rotation)


def _rehearse(world: World, caller: Caller, rotation: Rotation) -> tuple[Act, ...]:
    met, play = world.ledger.read(
        lambda view: (view.rotation_files(rotation.name), make_play(view, rotation))
    )
    acts = world.rehearsal.rehearse(play)
    failed = [act for act in acts if not act.as_promised]
    if failed:
        raise PolicyViolation(
            "REHEARSAL_FAILED",
            f"nothing is released: {'; '.join(map(str, failed))}",
            details={str(number): str(act) for number, act in enumerate(failed)},
        )

    def work(tx: Transaction) -> None:
        # It may have been given up, or published by somebody else, while the clients ran.
        current = still_open(tx, rotation.name)
        files = tx.rotation_files(rotation.name)
        if files != met:
            raise BackendUnavailable(
                "ROTATION_MOVED",
                "files of the rotation changed while clients met them: continue once more",
                retry_after_s=0.1,
            )
        tx.append(
            Entry(
                event=Event.ROTATION_REHEARSED,
                at=world.clock.now(),
                principal=caller.principal,
                fields={
                    "rotation": rotation.name,
                    "repository": rotation.repository,
                    "files": [file.described for file in files],
                    "clients": [str(act) for act in acts],
                },
            )
        )
        tx.put_rotation(replace(current, state=RotationState.READY))

    world.ledger.transact(work)
    failpoint(Failpoint.ROTATION_REHEARSED)
    return acts


def to_publish(view: View, rotation: Rotation) -> tuple[RotationFile, ...]:
    """Files in an order that no client can mind (TUF 6.3.1 to 6.3.3), the timestamp last."""
    last = _PUBLISHED_LAST
    files = [*_earlier_roots(view, rotation), *view.rotation_files(rotation.name)]
    return tuple(sorted(files, key=lambda file: last.index(file.role) if file.role in last else -1))


def _earlier_roots(view: View, rotation: Rotation) -> Sequence[RotationFile]:
    """Upwards, the roots since the rotation began which its own follows: clients take each."""
    files = view.rotation_files(rotation.name)
    found: list[RotationFile] = []
    newest = next((file for file in files if file.role == "root"), None)
    while newest is not None:
        place = rotation.repository, "root", newest.epoch, newest.version - 1
        held = view.reservation(*place)
        content = published_file(view, rotation.repository, "root", newest.version - 1)
        if held is None or content is None or held.leaf < rotation.leaf:
            break
        newest = replace(
            newest, version=held.version, digest=held.digest, leaf=held.leaf, content=content
        )
        found.insert(0, newest)
    return found


def make_play(view: View, rotation: Rotation) -> Play:
    """The published state as the ledger knows it, and the sealed files of the rotation."""
    released = tuple(_signed_file(view, file) for file in view.rotation_files(rotation.name))
    new = {file.role: file for file in released}
    root = trusted(view, rotation.repository, "root")
    newest = role_or_new(view, rotation.repository, "root").trusted_version
    before = newest - 1 if "root" in new else newest
    return Play(
        roots=dict(_roots(view, rotation.repository, before)),
        before=dict(_before(view, rotation, new)),
        unchanged=dict(_unchanged(view, rotation.repository, new)),
        released=released,
        consistent_snapshot=bool(root and root.signed.get("consistent_snapshot")),
    )


def _signed_file(view: View, file: RotationFile) -> SignedFile:
    reservation = view.reservation(file.repository, file.role, file.epoch, file.version)
    sets = listed_in_order(view, reservation) if reservation is not None else ()
    parents = _parents(view, file.repository, file.role)
    delegator = trusted(view, file.repository, parents[-1]) if parents else None
    bins = delegates(delegator).bins if delegator is not None else None
    is_bin = bins is not None and bins.covers(file.role)
    return SignedFile(file.role, file.version, file.content or b"", sets, parents, is_bin)


def _parents(view: View, repository: str, role: str) -> tuple[str, ...]:
    """The roles that lead from targets to a delegated role."""
    found: list[str] = []
    while role not in TOP_LEVEL:
        delegators = [d for d in attached_delegators(view, repository, role) if d not in found]
        if not delegators:
            return ()
        role = delegators[0]
        found.insert(0, role)
    return tuple(found)


def _roots(view: View, repository: str, newest: int) -> Iterator[tuple[int, bytes]]:
    """Downwards from the newest to the first that this ledger knows."""
    for version in range(newest, 0, -1):
        content = published_file(view, repository, "root", version)
        if content is None:
            return
        yield version, content


def _before(
    view: View, rotation: Rotation, new: Mapping[str, SignedFile]
) -> Iterator[tuple[str, bytes]]:
    """The files that a client of the previous state has in its cache."""
    repository = rotation.repository
    roles = {"targets", "snapshot", "timestamp", *new, *_on_the_way(new)} - {"root"}
    for name in sorted(roles):
        role = role_or_new(view, repository, name)
        # The newest version, or the one before it where the newest is ours.
        beyond = role.trusted_version + (name not in new)
        found = view.accepted_before(repository, name, role.epoch, beyond)
        while found is not None and is_made_by(view, rotation, name, *found):
            found = view.accepted_before(repository, name, *found)
        if found is not None:
            epoch, version = found
            content = published_file(view, repository, name, version, epoch=epoch)
            if content is not None:
                yield name, content


def _unchanged(
    view: View, repository: str, new: Mapping[str, SignedFile]
) -> Iterator[tuple[str, tuple[int, bytes | None]]]:
    """Roles that are not signed anew, at the versions that the newest metadata names."""
    timestamp, snapshot = (trusted(view, repository, r) for r in ("timestamp", "snapshot"))
    if "timestamp" not in new:
        version = timestamp.signed["version"] if timestamp else 0
        content = published_file(view, repository, "timestamp", version) if version else None
        yield "timestamp", (version, content)
    listed = {
        "snapshot": timestamp.signed["meta"].get("snapshot.json") if timestamp else None,
        **{
            role: snapshot.signed["meta"].get(f"{role}.json") if snapshot else None
            for role in ("targets", *_on_the_way(new))
        },
    }
    for role, entry in listed.items():
        if role not in new and entry is not None:
            wanted = FileFacts(entry.get("length", 0), entry.get("hashes", {}))
            content = published_file(view, repository, role, entry["version"], wanted=wanted)
            yield role, (entry["version"], content)


def _on_the_way(new: Mapping[str, SignedFile]) -> set[str]:
    return {parent for file in new.values() for parent in file.parents if parent != "targets"}
