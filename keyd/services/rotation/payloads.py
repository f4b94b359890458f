"""The payload that a signing step makes, from what is trusted at that moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from keyd.domain import canonical, public_keys
from keyd.domain.delegations import lists_under
from keyd.domain.metadata_file import facts_of
from keyd.domain.payload import Payload
from keyd.domain.records import Role
from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation import building
from keyd.domain.rotation.building import ListChange, Listed
from keyd.domain.rotation.changes import NewKey, RoleChange
from keyd.domain.rules.snapshot import highest_listed
from keyd.domain.rules.timestamp import newest_listing
from keyd.domain.trust import TOP_LEVEL
from keyd.errors import InvalidRequest, PolicyViolation
from keyd.ports import View
from keyd.services.evidence import gather, mark, role_or_new, rules_of, trusted
from keyd.services.keys import named
from keyd.services.repositories import existing
from keyd.services.rotation.bound import accepted_of, names
from keyd.services.rotation.newcomers import check_newcomers
from keyd.services.rotation.plans import plan_behind
from keyd.services.rotation.proposing import proposed
from keyd.services.rotation.reserving import Build
from keyd.services.rotation.starts import content_below
from keyd.services.world import World


def builder(world: World, rotation: Rotation, name: str) -> Build:
    """How the payload of one role is made."""
    plan = plan_behind(rotation)

    def build(view: View, role: Role) -> bytes:
        before = trusted(view, rotation.repository, name)
        if before is None:
            raise PolicyViolation(
                "ROTATION_STALE", f"nothing is trusted of {name} any more: plan the change anew"
            )
        if lower := plan.change.lower.get(name):
            before = _before_recovery(view, role, lower) or before
        version = mark(view, role) + 1

        def expiring(expires: str) -> bytes:
            bumped = building.bump(before, version, expires)
            return canonical.encode(_changed(view, rotation, role, before, bumped))

        lifetime_s = plan.change.root_expires_s if name == "root" else 0
        # Root waits for people, who approve these bytes: they must be the same tomorrow, and after
        # a void. Once one was accepted, another follows what expired or what others signed.
        first = name == "root" and next(accepted_of(view, rotation, name), None) is None
        now = rotation.created_at if first else world.clock.now()
        waiting = None if first else _proposed(world, view, role, version, expiring)
        rules, shorter = rules_of(role), first and lifetime_s > 0
        expires = building.expiry(before, name, rules, now, lifetime_s, shorter=shorter)
        return waiting or expiring(expires)

    return build


def _before_recovery(view: View, role: Role, lower: int) -> Payload | None:
    """What a lowered role, in its new epoch here, goes on with until it trusts a payload of it."""
    recorded = role_or_new(view, role.repository, role.name)
    newest = view.reservation(role.repository, role.name, role.epoch, recorded.trusted_version)
    if newest is not None and newest.digest == recorded.trusted_digest:
        return None
    return content_below(view, replace(role, epoch=role.epoch - 1), lower)


def _proposed(
    world: World, view: View, role: Role, version: int, expiring: Callable[[str], bytes]
) -> bytes | None:
    """The payload that officers were asked for, if it still is the one to sign but for its expiry.

    Made at another moment it would be another, and what they approve would never be signed.
    """
    return next(
        (
            payload
            for payload in proposed(world, view, role, version)
            if expiring(json.loads(payload, strict=False)["expires"]) == payload
        ),
        None,
    )


def _changed(
    view: View, rotation: Rotation, role: Role, before: Payload, bumped: building.Signed
) -> Mapping[str, Any]:
    """What the plan says of this payload, put into its next version."""
    kind, change = before.signed["_type"], plan_behind(rotation).change
    if kind == "snapshot":
        bumped["meta"].update(_listed(view, role, before))
        check_newcomers(view, rotation, bumped["meta"])
        return building.build_snapshot(bumped, dict(_sealed(view, rotation, kind)))
    if kind == "timestamp":
        bumped["meta"].update(_listed(view, role, before))
        sealed = dict(_sealed(view, rotation, kind))
        return building.build_timestamp(bumped, sealed.get("snapshot"))
    own = [each for each in change.changes if _gives(before, each.role)]
    lists = {each.role: _list_change(view, before, each) for each in own}
    build = building.build_root if kind == "root" else building.build_delegator
    return build(before, bumped, lists)


def _listed(view: View, role: Role, before: Payload) -> Mapping[str, Any]:
    """What clients know or soon may: a version that waits can still become the trusted one."""
    seen = gather(view, existing(view, role.repository), role, before).role
    if role.name == "snapshot":
        return highest_listed(before.signed["meta"], seen)
    newest = newest_listing(seen)
    return newest.signed["meta"] if newest is not None else {}


def _gives(before: Payload, role: str) -> bool:
    """Whether the payload is where the keys of this role, or of bins so prefixed, are listed."""
    if before.signed["_type"] == "root":
        return role in TOP_LEVEL
    return role not in TOP_LEVEL and bool(lists_under(before, role, ""))


def _list_change(view: View, before: Payload, change: RoleChange) -> ListChange:
    return ListChange(
        add=tuple(_key_object(view, before, key) for key in change.add),
        remove=frozenset(change.remove),
        threshold=change.threshold,
    )


def _key_object(view: View, before: Payload, key: NewKey) -> tuple[str, Mapping[str, Any]]:
    """Key id and object; as the payload spells it already, where it lists the key for others."""
    if key.key_object is not None:
        keyid, found = public_keys.keyid_three_members(key.key_object), key.key_object
    else:
        held = named(view, key.label)
        keyid, found = public_keys.tuf_key(held.public_der, held.scheme)
    fingerprint = public_keys.fingerprint_of(found)
    holder = before.signed if "keys" in before.signed else before.signed["delegations"]
    for known, spelt in holder["keys"].items():
        if _fingerprint(spelt) == fingerprint:
            return known, spelt
    return keyid, found


def _fingerprint(key_object: Mapping[str, Any]) -> str:
    try:
        return public_keys.fingerprint_of(key_object)
    except InvalidRequest:
        return ""


def _sealed(view: View, rotation: Rotation, by: str) -> Iterator[tuple[str, Listed]]:
    """The files of this rotation that a snapshot, or the timestamp, names."""
    for file in view.rotation_files(rotation.name):
        root = (by, file.role) == ("snapshot", "root") and _lists_root(view, rotation.repository)
        if file.content is not None and (root or names(by, file.role)):
            yield file.role, Listed(file.version, facts_of(file.content))


def _lists_root(view: View, repository: str) -> bool:
    snapshot = trusted(view, repository, "snapshot")
    return snapshot is not None and "root.json" in snapshot.signed["meta"]
