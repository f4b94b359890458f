"""Planning: a dry run that anybody with the grant may see."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keyd.domain import public_keys
from keyd.domain.delegations import key_table
from keyd.domain.policy import Action, Caller
from keyd.domain.records_rotation import Rotation, SignedVersion
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.plan import Plan, table
from keyd.domain.rotation.planning import plan as work_out
from keyd.domain.rotation.standing import Standing
from keyd.errors import Finding, InvalidRequest
from keyd.ports import View
from keyd.services.authorize import demand
from keyd.services.rotation.former import former_keys
from keyd.services.rotation.plans import plan_behind
from keyd.services.rotation.standing import standing_of
from keyd.services.rotation.starts import starts
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World

_DEFAULT_SCHEME = "ecdsa-sha2-nistp256"
_ALL = "*"


@dataclass(frozen=True)
class Planned:
    """A plan as it is shown; `json` are the bytes that `digest` (hex) is of."""

    digest: str
    lines: tuple[str, ...]
    json: bytes
    findings: tuple[Finding, ...]
    exposed: tuple[tuple[str, SignedVersion], ...] = ()


def plan(world: World, caller: Caller, wanted: Wanted) -> Planned:
    """What a change would do, and what forbids it. Raises: NotFound, InvalidRequest."""
    demand(world, caller, Action("RotationService.PlanRotation", wanted.repository))
    return world.ledger.read(lambda view: shown(view, planned_now(world, view, wanted)))


def planned_now(world: World, view: View, wanted: Wanted) -> Plan:
    """The plan by what is recorded at this moment."""
    standing = standing_of(world, view, wanted.repository)
    standing = replace(
        standing,
        starts=starts(view, wanted.repository, wanted.lower),
        officers=view.base_threshold() > 0,
        former=former_keys(view, wanted.repository) if wanted.lower else {},
    )
    return work_out(_resolved(standing, wanted), standing)


def recorded(world: World, rotation: Rotation) -> Planned:
    """The plan that a rotation was started with."""
    return world.ledger.read(lambda view: shown(view, plan_behind(rotation)))


def shown(view: View, plan: Plan) -> Planned:
    """A plan for reading, with all that its compromised keys have signed, by their names.

    Nothing of other repositories, whose keys a caller can name who may see nothing of them.
    """
    exposed: list[tuple[str, SignedVersion]] = []
    for fingerprint in plan.change.compromised:
        key = view.key_by_fingerprint(fingerprint)
        name = key.name if key is not None else ""
        exposed += [
            (name, version)
            for version in view.signed_by(fingerprint)
            if version.repository == plan.change.repository
        ]
    return Planned(plan.digest, table(plan), plan.raw, plan.told, tuple(exposed))


def _resolved(standing: Standing, wanted: Wanted) -> ChangeSet:
    """Names become fingerprints. Raises: InvalidRequest (ROTATION_KEY_UNKNOWN)."""
    return ChangeSet(
        kind=RotationKind(wanted.kind),
        repository=wanted.repository,
        changes=tuple(
            change for role in wanted.roles if (change := _role_change(standing, role)) is not None
        ),
        compromised=tuple(_fingerprint(standing, name) for name in wanted.compromised),
        lower=dict(wanted.lower),
        root_expires_s=wanted.root_lifetime_s,
        reason=wanted.reason,
    )


def _role_change(standing: Standing, wanted: WantedRole) -> RoleChange | None:
    """None if nothing is said about the role but its name."""
    if not (wanted.add or wanted.remove or wanted.threshold):
        return None
    remove: set[str] = set()
    for name in wanted.remove:
        remove |= _listed(standing, wanted.role) if name == _ALL else {_fingerprint(standing, name)}
    return RoleChange(
        role=wanted.role,
        add=tuple(_new_key(standing, key) for key in wanted.add),
        remove=tuple(sorted(remove)),
        threshold=wanted.threshold or None,
    )


def _new_key(standing: Standing, wanted: WantedKey) -> NewKey:
    if wanted.key_object is not None:
        public_keys.load(wanted.key_object)
        return NewKey(wanted.name, wanted.holder, wanted.key_object)
    known = standing.keys.get(wanted.name)
    if known is not None:
        return NewKey(
            wanted.name, token=known.token, scheme=known.scheme, fingerprint=known.fingerprint
        )
    return NewKey(wanted.name, token=wanted.token, scheme=wanted.scheme or _DEFAULT_SCHEME)


def _listed(standing: Standing, role: str) -> set[str]:
    """The keys that a role has now."""
    return {fp for keys in standing.lists(role) for fp in keys.fingerprints.values()}


def _fingerprint(standing: Standing, name: str) -> str:
    if name in standing.keys:
        return standing.keys[name].fingerprint
    for payload in standing.trusted.values():
        table_ = key_table(payload).fingerprints
        if name in table_:
            return table_[name]
        if name in table_.values():
            return name
    by_label = [key.fingerprint for key in standing.holders.values() if key.label == name]
    if by_label:
        return by_label[0]
    raise InvalidRequest(
        "ROTATION_KEY_UNKNOWN",
        f"{name!r} is no key here, and no key id or fingerprint that trusted metadata lists",
    )
