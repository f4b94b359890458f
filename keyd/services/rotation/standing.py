"""What the planner may look at, read from the ledger at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain.delegations import delegates
from keyd.domain.keys import Content
from keyd.domain.payload import Payload
from keyd.domain.records import ReservationState
from keyd.domain.rotation.standing import KeyFacts, Standing
from keyd.domain.trust import TOP_LEVEL
from keyd.ports import View
from keyd.services.evidence import mark, role_or_new, trusted
from keyd.services.repositories import existing
from keyd.services.rotation.holders import holders
from keyd.services.world import World


def standing_of(world: World, view: View, name: str) -> Standing:
    """A repository with everything that bears on a change of its keys. Raises: NotFound."""
    repository = existing(view, name)
    payloads = _trusted(view, name)
    named = [role for payload in payloads.values() for role in delegates(payload).names]
    delegated = sorted({role for role in named if role not in TOP_LEVEL})
    roles = {role: role_or_new(view, name, role) for role in (*TOP_LEVEL, *delegated)}
    open_rotation = view.open_rotation(name)
    return Standing(
        repository=name,
        development=repository.development,
        imported=repository.imported,
        now=world.clock.now(),
        trusted=payloads,
        delegators={role: view.delegators_of(name, role) for role in delegated},
        keys={key.label: key for key in _keys(view)},
        holders=holders(view, name),
        versions={role: mark(view, found) + 1 for role, found in roles.items()},
        pending=_pending(view, name, roles),
        open_rotation=open_rotation.name if open_rotation else "",
        tokens=frozenset(token.name for token in world.tokens.all()),
    )


def _trusted(view: View, repository: str) -> dict[str, Payload]:
    found = {}
    for role in view.roles(repository):
        payload = trusted(view, repository, role.name)
        if payload is not None:
            found[role.name] = payload
    return found


def _keys(view: View) -> list[KeyFacts]:
    found = []
    for key in view.keys():  # noqa: SIM118 - a view is no mapping
        material = view.material(key.fingerprint)
        found.append(
            KeyFacts(
                label=key.name,
                fingerprint=key.fingerprint,
                state=key.state,
                token=key.token,
                scheme=key.scheme.value,
                repository=material.repository if material else "",
                tuf=key.content is Content.TUF,
            )
        )
    return found


def _pending(view: View, repository: str, roles: Mapping[str, object]) -> dict[str, int]:
    waiting = {}
    for name in roles:
        role = role_or_new(view, repository, name)
        if role.high_water == role.trusted_version:
            continue
        found = view.reservation(repository, name, role.epoch, role.high_water)
        if found is not None and found.state in (
            ReservationState.RESERVED,
            ReservationState.SIGNED,
        ):
            waiting[name] = role.high_water
    return waiting
