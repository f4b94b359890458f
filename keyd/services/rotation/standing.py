"""What the planner may look at, read from the ledger at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keyd.domain.delegations import Succinct, delegates
from keyd.domain.keys import Content
from keyd.domain.payload import Payload
from keyd.domain.records import ReservationState
from keyd.domain.rotation.standing import KeyFacts, Standing
from keyd.domain.trust import TOP_LEVEL
from keyd.ports import View
from keyd.services.evidence import attached_delegators, mark, role_or_new, trusted
from keyd.services.repositories import existing
from keyd.services.rotation.holders import holders
from keyd.services.world import World


def standing_of(world: World, view: View, name: str) -> Standing:
    """A repository with everything that bears on a change of its keys. Raises: NotFound."""
    repository = existing(view, name)
    payloads = _trusted(view, name)
    unseen = _unseen(payloads)
    named = {role for payload in payloads.values() for role in delegates(payload).names}
    prefixes = _prefixes(payloads)
    bins = _published(prefixes, sorted({*payloads, *unseen}))
    delegated = sorted(named.union(*bins.values()).difference(TOP_LEVEL))
    delegators = {role: attached_delegators(view, name, role) for role in delegated}
    for prefix, found in prefixes.items():
        delegators[prefix] = tuple(sorted({*delegators.get(prefix, ()), *found}))
    roles = {role: role_or_new(view, name, role) for role in (*TOP_LEVEL, *delegated)}
    open_rotation = view.open_rotation(name)
    return Standing(
        repository=name,
        development=repository.development,
        imported=repository.imported,
        now=world.clock.now(),
        trusted=payloads,
        delegators=delegators,
        keys={key.label: key for key in _keys(view)},
        holders=holders(view, name),
        next_root=mark(view, roles["root"]) + 1,
        pending=_pending(view, name, roles),
        open_rotation=open_rotation.name if open_rotation else "",
        tokens=frozenset(token.name for token in world.tokens.all()),
        unseen=unseen,
        bins=bins,
    )


def _trusted(view: View, repository: str) -> dict[str, Payload]:
    found = {}
    for role in view.roles(repository):
        payload = trusted(view, repository, role.name)
        if payload is not None:
            found[role.name] = payload
    return found


def _unseen(payloads: Mapping[str, Payload]) -> frozenset[str]:
    """Roles that are published, for the snapshot lists them, and not recorded here."""
    snapshot = payloads.get("snapshot")
    listed = snapshot.signed["meta"] if snapshot is not None else ()
    return frozenset(name.removesuffix(".json") for name in listed).difference(payloads, TOP_LEVEL)


def _prefixes(payloads: Mapping[str, Payload]) -> Mapping[str, Mapping[str, Succinct]]:
    """Who delegates to hash bins, and to how many, by their name prefix."""
    found: dict[str, dict[str, Succinct]] = {}
    for delegator, payload in payloads.items():
        if bins := delegates(payload).bins:
            found.setdefault(bins.name_prefix, {})[delegator] = bins
    return found


def _published(
    prefixes: Mapping[str, Mapping[str, Succinct]], names: Iterable[str]
) -> Mapping[str, tuple[str, ...]]:
    """The bins among the names, by prefix. One look at each name: they are thousands."""
    found: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for name in names:
        prefix = name.rpartition("-")[0]
        if any(bins.covers(name) for bins in prefixes.get(prefix, {}).values()):
            found[prefix].append(name)
    return {prefix: tuple(roles) for prefix, roles in found.items()}


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
