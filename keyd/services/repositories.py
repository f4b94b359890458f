"""Repositories: announced before their first root, or taken in with their published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from keyd.domain import public_keys
from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.delegations import delegated_keys
from keyd.domain.keys import Content
from keyd.domain.loosening import rules_loosened
from keyd.domain.names import check_comment, check_name
from keyd.domain.operations import SetRoleRules
from keyd.domain.payload import Payload
from keyd.domain.policy import Action, Caller
from keyd.domain.records import Repository, Reservation, ReservationState, Role
from keyd.domain.rule_levels import rules_text
from keyd.domain.runway import Runway
from keyd.domain.sizes import PAYLOAD_MAX_BYTES
from keyd.domain.trust import EXPIRY_MAX_S, TOP_LEVEL, KeySet, RepositoryState, RoleRules
from keyd.errors import AlreadyExists, InvalidRequest, NotFound, PolicyViolation
from keyd.ports import Transaction, View
from keyd.services.acceptance import lacking
from keyd.services.authorize import demand, demand_administrator
from keyd.services.evidence import mark, role_or_new, rules_of, trusted
from keyd.services.keys import named
from keyd.services.paging import Page, paged
from keyd.services.quorum import approving, consume, named_by_policy
from keyd.services.runway import runway_of
from keyd.services.world import World


@dataclass(frozen=True)
class RoleSummary:
    """Where one role stands; versions are 0 where there is none."""

    role: str
    epoch: int
    trusted_version: int
    high_water: int
    next_version: int
    expires: datetime | None
    pending_version: int
    pending_missing: int
    runway: Runway | None = None


@dataclass(frozen=True)
class RepositorySummary:
    """A repository with its trusted root's canonical payload (b"" before) and its roles."""

    repository: Repository
    trusted_root: bytes
    roles: tuple[RoleSummary, ...]


def bootstrap(
    world: World,
    caller: Caller,
    *,
    name: str,
    root_keys: Sequence[str],
    foreign_keys: Sequence[Mapping[str, Any]],
    threshold: int,
    development: bool,
) -> Repository:
    """Announce a repository: the keys that may sign root 1, and how many of them must.

    Raises: AlreadyExists, NotFound, InvalidRequest, PolicyViolation.
    """
    action = Action("RepositoryService.BootstrapRepository", name)
    demand_administrator(world, caller, action)
    check_name("repository", name)

    def work(tx: Transaction) -> Repository:
        check_free(tx, name)
        now = world.clock.now()
        development_for_ever = development or tx.identity().development
        intended = _intended(tx, root_keys, foreign_keys, threshold)
        if threshold < 2 and not development_for_ever:
            raise PolicyViolation(
                "THRESHOLD_BELOW_FLOOR", "production repositories need a root threshold of 2"
            )
        repository = Repository(
            name=name,
            state=RepositoryState.BOOTSTRAP,
            development=development_for_ever,
            imported=False,
            created_at=now,
            intended_root=intended,
        )
        tx.put_repository(repository)
        for fingerprint in intended.fingerprints.values():
            claim(tx, fingerprint, name, "root")
        listed = sorted(intended.fingerprints.items(), key=lambda pair: pair[::-1])
        fields: Fields = {
            "repository": name,
            "threshold": threshold,
            "root_keys_sha256": [fingerprint for _, fingerprint in listed],
            "root_key_ids": [keyid for keyid, _ in listed],
            "development": development_for_ever,
        }
        tx.append(Entry(Event.REPOSITORY_BOOTSTRAPPED, now, caller.principal, fields=fields))
        return repository

    return world.ledger.transact(work)


def list_repositories(
    world: World, caller: Caller, page_size: int, page_token: str
) -> Page[Repository]:
    """All repositories, by name."""
    demand(world, caller, Action("RepositoryService.ListRepositories"))
    found = world.ledger.read(lambda view: view.repositories())
    return paged(found, lambda repository: repository.name, page_size, page_token)


def state(world: World, caller: Caller, name: str) -> RepositorySummary:
    """What is trusted now, role by role. Raises: NotFound."""
    demand(world, caller, Action("RepositoryService.GetRepositoryState", name))
    return world.ledger.read(lambda view: _summary(view, name))


def role_rules(world: World, caller: Caller, repository: str, role: str) -> tuple[RoleRules, bool]:
    """The rule levels of a role, and whether they are its type's defaults. Raises: NotFound."""
    demand(world, caller, Action("RepositoryService.GetRoleRules", repository, role))

    def work(view: View) -> tuple[RoleRules, bool]:
        found = role_or_new(view, existing(view, repository).name, role)
        if found.rules is None and not _is_known(view, found):
            raise NotFound(
                "ROLE_UNKNOWN",
                f"{repository} has no role {role!r}, and nothing delegates it: "
                "keyd repo state lists all roles",
            )
        return rules_of(found), found.rules is None

    return world.ledger.read(work)


def _is_known(view: View, role: Role) -> bool:
    """Whether it is a top-level role, or something was signed for it or delegates it."""
    recorded = role.name in TOP_LEVEL or view.role(role.repository, role.name) is not None
    return recorded or bool(view.delegators_of(role.repository, role.name))


def set_role_rules(
    world: World, caller: Caller, repository: str, role: str, *, rules: RoleRules, comment: str
) -> RoleRules:
    """Set all rule levels of a role; taken from the local administrator only.

    Raises: NotFound, InvalidRequest, NotAllowed.
    """
    action = Action("RepositoryService.SetRoleRules", repository, role)
    demand_administrator(world, caller, action)
    check_comment(comment)
    check_rules(rules)

    def work(tx: Transaction) -> RoleRules:
        found = role_or_new(tx, existing(tx, repository).name, role)
        looser = tx.base_threshold() and rules_loosened(rules_of(found), rules)
        if looser or named_by_policy(world, action):
            operation = SetRoleRules(repository, role, rules_text(rules))
            consume(world, tx, approving(world, tx, operation), caller.principal)
        put_rules(world, tx, found, rules, principal=caller.principal, comment=comment)
        return rules

    return world.ledger.transact(work)


def put_rules(
    world: World, tx: Transaction, role: Role, rules: RoleRules, *, principal: str, comment: str
) -> None:
    """Record a role's new rule levels and what changed."""
    check_rules(rules)
    before, after = asdict(rules_of(role)), asdict(rules)
    changed = [
        f"{name}: {before[name]} -> {after[name]}" for name in after if after[name] != before[name]
    ]
    tx.put_role(replace(role, rules=rules))
    fields: Fields = {
        "repository": role.repository,
        "role": role.name,
        "changed": changed,
        "comment": comment,
    }
    tx.append(Entry(Event.ROLE_RULES_CHANGED, world.clock.now(), principal, fields=fields))


def existing(view: View, name: str) -> Repository:
    """A repository by name. Raises: NotFound."""
    found = view.repository(name)
    if found is None:
        raise NotFound(
            "REPOSITORY_UNKNOWN",
            f"there is no repository {name!r}; bootstrap or register it first",
        )
    return found


def check_free(view: View, name: str) -> None:
    """Refuse a name that is taken. Raises: AlreadyExists."""
    if view.repository(name) is not None:
        raise AlreadyExists("REPOSITORY_EXISTS", f"there is a repository {name!r} already")


def claim_listed(tx: Transaction, repository: str, role: str, payload: Payload) -> None:
    """Claim all that a payload for `role` lists. Raises: as `claim`."""
    uses = {
        (delegation.fingerprint, delegation.role if role == "root" else "delegated")
        for delegation in delegated_keys(payload)
    }
    for fingerprint, use in sorted(uses):
        claim(tx, fingerprint, repository, use)


def claim(tx: Transaction, fingerprint: str, repository: str, use: str) -> None:
    """Bind key material to a repository for ever.

    Raises: PolicyViolation if it is another's, or of a key held here for other content.
    """
    key = tx.key_by_fingerprint(fingerprint)
    if key is not None and key.content is not Content.TUF:
        raise PolicyViolation(
            "KEY_CONTENT_MISMATCH",
            f"key {key.name!r}, listed for {use}, was created for {key.content.value} content; "
            "list a key made for tuf",
        )
    check_not_officers(tx, fingerprint)
    owner = tx.claim_material(fingerprint, repository, use)
    if owner != repository:
        raise PolicyViolation(
            "KEY_BELONGS_TO_ANOTHER_REPOSITORY",
            f"a key listed for {use} belongs to repository {owner!r}; make a key of its own for "
            f"{repository!r}",
        )


def check_not_officers(view: View, fingerprint: str) -> None:
    """An officer's key approves and does nothing else. Raises: PolicyViolation."""
    if view.base_threshold() and (holder := view.officers().holder_of(fingerprint)):
        raise PolicyViolation(
            "KEY_IS_OFFICER_KEY",
            f"the key {fingerprint[:16]} is officer {holder.name!r}'s; what approves does not sign",
        )


def _intended(
    view: View, names: Sequence[str], foreign: Sequence[Mapping[str, Any]], threshold: int
) -> KeySet:
    fingerprints: dict[str, str] = {}
    for name in names:
        key = named(view, name)
        if key.content is not Content.TUF:
            raise InvalidRequest(
                "KEY_CONTENT_MISMATCH", f"key {name!r} was not created for TUF content"
            )
        fingerprints[public_keys.tuf_key(key.public_der, key.scheme)[0]] = key.fingerprint
    for key_object in foreign:
        loaded = public_keys.load(key_object)
        fingerprints[public_keys.keyid_three_members(key_object)] = loaded.fingerprint
    distinct = len(set(fingerprints.values()))
    if distinct < len(names) + len(foreign):
        raise InvalidRequest("KEY_MATERIAL_REPEATED", "the same key pair is named twice for root")
    if not 1 <= threshold <= distinct:
        raise InvalidRequest(
            "THRESHOLD_INVALID", f"the root threshold lies between 1 and the {distinct} keys named"
        )
    return KeySet("bootstrap", threshold, fingerprints)


def check_rules(rules: RoleRules) -> None:
    """Refuse levels that no payload could meet. Raises: InvalidRequest (RULES_INVALID)."""
    if not 0 <= rules.expiry_min_s < rules.expiry_max_s:
        raise InvalidRequest("RULES_INVALID", "expiry_min_s must lie below expiry_max_s")
    if rules.expiry_max_s > EXPIRY_MAX_S:
        raise InvalidRequest(
            "RULES_INVALID", f"expiry_max_s is at most {EXPIRY_MAX_S}, a hundred years"
        )
    if not 0 < rules.payload_max_bytes <= PAYLOAD_MAX_BYTES:
        raise InvalidRequest(
            "RULES_INVALID", f"payload_max_bytes lies between 1 and {PAYLOAD_MAX_BYTES}"
        )
    if rules.version_step_max < 0 or rules.threshold_floor < 1:
        raise InvalidRequest("RULES_INVALID", "threshold_floor is at least 1, the step at least 0")


def _summary(view: View, name: str) -> RepositorySummary:
    repository = existing(view, name)
    recorded = {role.name: role for role in view.roles(name)}
    for top in TOP_LEVEL:
        recorded.setdefault(top, Role(repository=name, name=top))
    root = trusted(view, name, "root")
    return RepositorySummary(
        repository=repository,
        trusted_root=root.raw if root else b"",
        roles=tuple(_role_summary(view, repository, recorded[role]) for role in sorted(recorded)),
    )


def _role_summary(view: View, repository: Repository, role: Role) -> RoleSummary:
    payload = trusted(view, role.repository, role.name)
    expires = expires_of(payload.signed["expires"]) if payload else None
    pending = _pending(view, role)
    signed = [s.fingerprint for s in view.signatures(pending)] if pending else []
    return RoleSummary(
        role=role.name,
        epoch=role.epoch,
        trusted_version=role.trusted_version,
        high_water=role.high_water,
        next_version=mark(view, role) + 1,
        expires=expires,
        pending_version=pending.version if pending else 0,
        pending_missing=lacking(view, pending, signed) if pending else 0,
        runway=runway_of(view, repository, role.name, expires) if expires else None,
    )


def _pending(view: View, role: Role) -> Reservation | None:
    if role.high_water == role.trusted_version:
        return None
    found = view.reservation(role.repository, role.name, role.epoch, role.high_water)
    open_states = (ReservationState.RESERVED, ReservationState.SIGNED)
    return found if found and found.state in open_states else None


def expires_of(text: str) -> datetime | None:
    """Imported metadata may spell its expiry in ways that python-tuf reads and keyd never signs."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
