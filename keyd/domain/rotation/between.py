"""From two published roots back to the change that leads from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from keyd.domain.delegations import key_set, key_table
from keyd.domain.difference import plain_text
from keyd.domain.payload import Payload
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.standing import ELSEWHERE, KeyFacts, Standing
from keyd.domain.trust import TOP_LEVEL

# Who holds a key, as tuf-on-ci writes it into key objects.
_OWNER = "x-tuf-on-ci-keyowner"


def change_between(old: Payload, new: Payload, repository: str) -> ChangeSet:
    """What must have been asked for, so that root `new` followed root `old`.

    Keys are compared by their material. A key under another id than before leaves and enters; keys
    in a form that nothing decodes are left out.
    """
    people = _holders(old, new)
    changes = tuple(change for role in TOP_LEVEL for change in _role_change(old, new, role, people))
    return ChangeSet(_kind(changes), repository, changes)


def standing_before(old: Payload, new: Payload, repository: str, now: datetime) -> Standing:
    """The repository as somebody knows it who has nothing but root `old`, and names from `new`."""
    version: int = old.signed["version"]
    return Standing(
        repository=repository,
        development=False,
        imported=True,
        now=now,
        trusted={"root": old},
        delegators={},
        keys={},
        holders=_holders(old, new),
        next_root=version + 1,
        unseen=frozenset(TOP_LEVEL) - {"root"},
    )


def _holders(*payloads: Payload) -> Mapping[str, KeyFacts]:
    """Keys by fingerprint; a name that one of the payloads tells holds for the others."""
    found: dict[str, KeyFacts] = {}
    for payload in payloads:
        for keyid, fingerprint in key_table(payload).fingerprints.items():
            owner = _owner(payload.signed["keys"][keyid])
            if owner or fingerprint not in found:
                found[fingerprint] = KeyFacts(
                    label=fingerprint[:12], fingerprint=fingerprint, holder=owner or ELSEWHERE
                )
    return found


def _owner(key_object: Mapping[str, Any]) -> str:
    owner = key_object.get(_OWNER)
    return plain_text(owner) if isinstance(owner, str) and owner else ""


def _role_change(
    old: Payload, new: Payload, role: str, people: Mapping[str, KeyFacts]
) -> Iterator[RoleChange]:
    before, after = key_set(old, role, ""), key_set(new, role, "")
    if before is None or after is None:
        return
    ids_before, ids_after = _ids(before.fingerprints), _ids(after.fingerprints)
    change = RoleChange(
        role=role,
        add=tuple(
            NewKey(
                label=people[fingerprint].label,
                holder=people[fingerprint].holder,
                key_object=new.signed["keys"][min(keyids)],
            )
            for fingerprint, keyids in ids_after.items()
            if ids_before.get(fingerprint) != keyids
        ),
        remove=tuple(
            sorted(fp for fp, keyids in ids_before.items() if ids_after.get(fp) != keyids)
        ),
        threshold=after.threshold if after.threshold != before.threshold else None,
    )
    if change.add or change.remove or change.threshold is not None:
        yield change


def _ids(fingerprints: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    """Key ids by material, in the order of the list."""
    found: dict[str, frozenset[str]] = {}
    for keyid, fingerprint in fingerprints.items():
        found[fingerprint] = found.get(fingerprint, frozenset()) | {keyid}
    return found


def _kind(changes: tuple[RoleChange, ...]) -> RotationKind:
    roles = {change.role for change in changes}
    if not roles:
        return RotationKind.RENEW_ROOT
    if roles == {"snapshot", "timestamp"}:
        return RotationKind.SHARED_ONLINE
    if "root" in roles or len(roles) > 1:
        return RotationKind.ROOT
    return RotationKind(roles.pop().upper())
