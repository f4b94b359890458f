"""Reading from the ledger all that the rules may look at, and noting what it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from keyd.domain.delegations import Delegates, Succinct, delegates, key_materials
from keyd.domain.keys import Content, KeyState
from keyd.domain.payload import Payload
from keyd.domain.records import Repository, Role
from keyd.domain.rules import references
from keyd.domain.rules.required import delegators_sets
from keyd.domain.trust import (
    TOP_LEVEL,
    Basis,
    KeySet,
    KnownVersion,
    RepositoryView,
    RoleRules,
    RoleView,
    default_rules,
)
from keyd.ports import View

_UNUSABLE = (KeyState.COMPROMISED, KeyState.DESTROYED)
# Decoded they take many times as much.
_CACHE_BYTES = 16 << 20

Delegators = tuple[tuple[str, Payload], ...]


def role_or_new(view: View, repository: str, role: str) -> Role:
    """The recorded role, or the state of one that nothing was signed for yet."""
    return view.role(repository, role) or Role(repository=repository, name=role)


def rules_of(role: Role) -> RoleRules:
    """The rules set for this role, else its type's defaults."""
    return role.rules or default_rules(role.name)


def gather(
    view: View, repository: Repository, role: Role, payload: Payload, signer: str = ""
) -> RepositoryView:
    """Everything recorded that bears on signing `payload` for `role`, read at one moment.

    Payloads that no rule compares this one with are not read (see `RepositoryView`).
    `signer` is the fingerprint of the key that is to sign, "" if there is none.
    """
    delegators = _delegators(view, repository.name, role.name)
    ancestry = _ancestry(view, repository.name, delegators)
    listed = (*key_materials(payload), signer) if signer else tuple(key_materials(payload))
    uses = _uses(view, repository.name, listed)

    def wanted(name: str, compared: bool = True) -> Payload | None:
        return trusted(view, repository.name, name) if compared else None

    return RepositoryView(
        name=repository.name,
        state=repository.state,
        development=repository.development,
        imported=repository.imported,
        role=RoleView(
            name=role.name,
            epoch=role.epoch,
            high_water=mark(view, role),
            rules=rules_of(role),
            trusted=wanted(role.name, role.name == "timestamp" or "delegations" in payload.signed),
            delegators=delegators,
            ancestry=ancestry,
            pending=_pending(view, role),
        ),
        basis=_basis(view, repository, role, {role.name: delegators, **ancestry}),
        bootstrap=repository.intended_root,
        trusted_root=wanted("root"),
        snapshot=wanted("snapshot", role.name in ("snapshot", "timestamp")),
        targets=wanted("targets", role.name == "root"),
        role_rules=_rules_set(view, repository.name, payload),
        known=_known(view, role, payload),
        foreign_material=_foreign(view, repository.name, listed),
        other_content=_other_content(view, listed),
        targets_material=frozenset(fp for fp, use in uses.items() if "targets" in use),
        delegated_material=frozenset(fp for fp, use in uses.items() if "delegated" in use),
        delegated_elsewhere=delegated_elsewhere(view, role, payload),
        brought_back=brought_back(view, role, payload),
        unusable=_held(view, repository.name, role, listed, _UNUSABLE)
        | _retired(view, repository.name, role, payload),
        compromised=_held(view, repository.name, role, listed, (KeyState.COMPROMISED,)),
    )


def mark(view: View, role: Role) -> int:
    """The highest version that is used up.

    A root cannot skip a version, so one whose reservation officers have voided is free again.
    """
    used = role.high_water
    while (
        role.name == "root"
        and used > role.trusted_version
        and view.reservation(role.repository, role.name, role.epoch, used) is None
        and view.lost_version(role.repository, role.name, role.epoch, used) is None
    ):
        used -= 1
    return used


def gather_trust(view: View, repository: Repository, role: Role) -> RepositoryView:
    """Only who may sign for the role: quick, whatever a payload holds."""
    return RepositoryView(
        name=repository.name,
        state=repository.state,
        development=repository.development,
        imported=repository.imported,
        role=RoleView(
            name=role.name,
            epoch=role.epoch,
            high_water=mark(view, role),
            rules=rules_of(role),
            delegators=_delegators(view, repository.name, role.name),
        ),
        basis=Basis(None, {}),
        bootstrap=repository.intended_root,
        trusted_root=trusted(view, repository.name, "root"),
    )


def still_holds(view: View, repository: str, basis: Basis) -> bool:
    """Whether the state that a judgement rests on is the state now."""
    if basis.repository_revision is not None:
        found = view.repository(repository)
        if found is None or found.revision != basis.repository_revision:
            return False
    return all(
        role_or_new(view, repository, name).revision == revision
        for name, revision in basis.role_revisions.items()
    )


def sets_now(view: View, repository: str, role: str) -> tuple[KeySet, ...]:
    """Whose signatures a role other than root needs by what is trusted now; none: nobody's."""
    if role in TOP_LEVEL:
        root = trusted(view, repository, "root")
        return delegators_sets(role, [("root", root)] if root else [])
    return delegators_sets(role, _delegators(view, repository, role))


def trusted(view: View, repository: str, role: str) -> Payload | None:
    """The newest accepted payload of a role."""
    digest = role_or_new(view, repository, role).trusted_digest
    return _payloads.get(view, digest) if digest else None


def _pending(view: View, role: Role) -> Payload | None:
    """The newest payload of snapshot or timestamp that may still become the trusted one.

    It was judged after those that wait below it, so it stands for them.
    """
    above = 0 if role.trusts_older_epoch else role.trusted_version
    if role.name not in ("snapshot", "timestamp") or role.high_water <= above:
        return None
    found = view.newest_pending(role.repository, role.name, role.epoch, above)
    if found is None:
        return None
    # Nobody else adds a signature to it: after a rotation these may not be enough.
    signers = frozenset(fp for keys in found.required for fp in keys.fingerprints.values())
    if any(keys.missing(signers) for keys in sets_now(view, role.repository, role.name)):
        return None
    return _payloads.get(view, found.digest)


def _basis(
    view: View, repository: Repository, role: Role, chains: Mapping[str, Delegators]
) -> Basis:
    """What a judgement rests on; `chains` are the roles up to targets with their delegators."""
    names = {role.name, "root", *chains, *(name for above in chains.values() for name, _ in above)}
    if role.name == "timestamp":
        names.add("snapshot")
    elif role.name not in TOP_LEVEL:
        names.add("targets")
    # A snapshot refers to every role and a root to every key, so any change may matter to them.
    everything = role.name in ("snapshot", "root")
    # Delegators that nobody delegates are left out, and anybody may delegate them again.
    if role.name not in TOP_LEVEL:
        everything = any(
            len(view.delegators_of(repository.name, name)) > len(above)
            for name, above in chains.items()
        )
    return Basis(
        repository_revision=repository.revision if everything else None,
        role_revisions={
            name: role_or_new(view, repository.name, name).revision for name in sorted(names)
        },
    )


def _delegators(view: View, repository: str, role: str) -> Delegators:
    if role in TOP_LEVEL:
        return ()
    found = (
        (name, trusted(view, repository, name))
        for name in attached_delegators(view, repository, role)
    )
    return tuple((name, payload) for name, payload in found if payload is not None)


def attached_delegators(view: View, repository: str, role: str) -> tuple[str, ...]:
    """Who delegates the role and is itself reached from targets: no client asks any other."""
    delegators = view.delegators_of(repository, role)
    return tuple(name for name in delegators if _is_attached(view, repository, name))


def _is_attached(view: View, repository: str, role: str) -> bool:
    seen, waiting = {role}, [role]
    while waiting:
        name = waiting.pop()
        if name == "targets":
            return True
        above = set(view.delegators_of(repository, name)) - seen
        seen |= above
        waiting.extend(above)
    return False


def _ancestry(view: View, repository: str, delegators: Delegators) -> Mapping[str, Delegators]:
    """Who delegates the delegators, up to targets; each asked once, so cycles end."""
    found: dict[str, Delegators] = {}
    waiting = [name for name, _ in delegators]
    while waiting:
        name = waiting.pop()
        if name in TOP_LEVEL or name in found:
            continue
        found[name] = _delegators(view, repository, name)
        waiting.extend(parent for parent, _ in found[name])
    return found


def _rules_set(view: View, repository: str, payload: Payload) -> Mapping[str, RoleRules]:
    """Rules set for the roles that the payload gives keys to; for bins, by their prefix."""
    now = delegates(payload)
    bins = () if now.bins is None else (now.bins.name_prefix,)
    recorded = (view.role(repository, name) for name in sorted({*now.names, *bins}))
    return {found.name: found.rules for found in recorded if found and found.rules}


def _known(view: View, role: Role, payload: Payload) -> Mapping[tuple[str, int], KnownVersion]:
    before = trusted(view, role.repository, "snapshot") if role.name == "snapshot" else None
    wanted = references(payload, before)
    if payload.signed["version"] <= role.high_water:
        wanted = (*wanted, (role.name, payload.signed["version"]))
    if not wanted:
        return {}
    return {
        named: KnownVersion(
            role=record.role,
            version=record.version,
            digest=record.digest,
            accepted=record.accepted,
            file=record.file,
        )
        for named, record in view.versions(role.repository, wanted).items()
    }


def _uses(view: View, repository: str, listed: Iterable[str]) -> Mapping[str, frozenset[str]]:
    found = ((fingerprint, view.material(fingerprint)) for fingerprint in listed)
    return {fp: m.uses for fp, m in found if m is not None and m.repository == repository}


def _foreign(view: View, repository: str, listed: Iterable[str]) -> Mapping[str, str]:
    found = ((fingerprint, view.material(fingerprint)) for fingerprint in listed)
    return {fp: m.repository for fp, m in found if m is not None and m.repository != repository}


def _other_content(view: View, listed: Iterable[str]) -> Mapping[str, str]:
    held = (view.key_by_fingerprint(fingerprint) for fingerprint in listed)
    return {
        key.fingerprint: key.content.value for key in held if key and key.content is not Content.TUF
    }


def delegated_elsewhere(view: View, role: Role, payload: Payload) -> Mapping[str, str]:
    """By new names: who delegates them. What was accepted once is a fact; bins are one name."""
    new = _delegated_anew(view, role, payload)
    asked = {name: {name} for name in new.names}
    if new.bins is not None:
        asked[new.bins.name_prefix] = _bins_named(view, role.repository, new.bins)
    found: dict[str, str] = {}
    for under in sorted(asked):
        for name in sorted(asked[under]):
            for delegator in attached_delegators(view, role.repository, name):
                if delegator != role.name:
                    found.setdefault(under, delegator)
    return found


def _delegated_anew(view: View, role: Role, payload: Payload) -> Delegates:
    now = delegates(payload)
    if role.name in ("root", "snapshot", "timestamp") or now == Delegates():
        return Delegates()
    before = trusted(view, role.repository, role.name)
    known = delegates(before) if before is not None else Delegates()
    return Delegates(now.names - known.names, now.bins if now.bins != known.bins else None)


def brought_back(view: View, role: Role, payload: Payload) -> Mapping[str, str]:
    """By new names: what they delegate, directly or not, and somebody else does by now."""
    new = _delegated_anew(view, role, payload)
    begin = {name: {name} for name in new.names}
    if new.bins is not None:
        begin[new.bins.name_prefix] = set(view.delegating_bins(role.repository, new.bins))
    found: dict[str, str] = {}
    for under in sorted(begin):
        seen, waiting = set(begin[under]), sorted(begin[under])
        while waiting and under not in found:
            for below in sorted(_delegated_by(view, role.repository, waiting.pop())):
                if _owners(view, role, payload, below) - seen:
                    found[under] = below
                if below not in seen:
                    seen.add(below)
                    waiting.append(below)
    return found


def _owners(view: View, role: Role, payload: Payload, name: str) -> set[str]:
    """Who delegates a name once the role has this payload."""
    others = set(attached_delegators(view, role.repository, name)) - {role.name}
    return others | {role.name} if delegates(payload).covers(name) else others


def _delegated_by(view: View, repository: str, role: str) -> set[str]:
    """Of bins, those that anybody can tell from the first."""
    granted = {(d.role, d.bit_length) for d in view.delegations_by(repository, role)}
    found = {name for name, bit_length in granted if not bit_length}
    for bins in (Succinct(*each) for each in granted if each[1]):
        found |= _bins_named(view, repository, bins) | {*view.delegating_bins(repository, bins)}
    return found


def _bins_named(view: View, repository: str, bins: Succinct) -> set[str]:
    """Other bins that share a name share the first; by name, any may be delegated."""
    return {bins.first, *view.named_bins(repository, bins)}


def _held(
    view: View, repository: str, role: Role, listed: Iterable[str], states: Sequence[KeyState]
) -> frozenset[str]:
    """Keys here, of the payload and the trusted root, in one of the states; asked for root only."""
    if role.name != "root":
        return frozenset()
    root = trusted(view, repository, "root")
    fingerprints = {*listed, *(key_materials(root) if root else ())}
    held = (view.key_by_fingerprint(fingerprint) for fingerprint in fingerprints)
    return frozenset(key.fingerprint for key in held if key and key.state in states)


def _retired(view: View, repository: str, role: Role, payload: Payload) -> frozenset[str]:
    """Keys that a root lists and that sign no root but one that does not list them."""
    listed = key_materials(payload).keys()
    return _held(view, repository, role, listed, (KeyState.DEACTIVATED,)) & listed


class _PayloadCache:
    """Accepted payloads that others are compared with, by digest: thousands of times each."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._payloads: dict[str, Payload] = {}

    def get(self, view: View, digest: str) -> Payload:
        found = self._payloads.get(digest)
        if found is not None:
            return found
        raw = view.payload(digest)
        # It parsed strictly before it was recorded, and the ledger compared its digest.
        found = Payload(raw=raw, signed=json.loads(raw, strict=False))
        if self._bytes + len(raw) > self._max_bytes:
            self._payloads, self._bytes = {}, 0
        self._payloads[digest] = found
        self._bytes += len(raw)
        return found


_payloads = _PayloadCache(_CACHE_BYTES)
