"""What the ledger knows besides versions: whether it follows from entries and versions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from keyd.domain.audit import Event
from keyd.domain.delegations import delegated_keys
from keyd.domain.keys import Content, Key, KeyState, Origin
from keyd.domain.payload import Payload
from keyd.domain.records import Delegation, Repository, Role
from keyd.domain.trust import RepositoryState
from keyd.ledger.codec import time_text
from keyd.ledger.verification.entries import differing, intended_root
from keyd.ledger.verification.log_pass import LogFacts
from keyd.ledger.verification.report import Report
from keyd.ledger.verification.rotation_checks import check_rotations
from keyd.ledger.view import SqliteView

# Marks, accepted versions and what they follow from, compared as sets. Reservations that are voided
# and those in force have an index each, and only a statement that names the state can use it.
_IMPORTED = "SELECT repository, role, epoch, version, digest, hashes FROM versions WHERE imported"
_MARKS = """
SELECT role.repository, role.name, role.epoch, role.high_water, max(
    coalesce((SELECT max(version) FROM reservations AS r WHERE r.repository = role.repository
        AND r.role = role.name AND r.epoch = role.epoch AND r.state <> 'VOIDED'), 0),
    coalesce((SELECT max(version) FROM reservations AS r WHERE r.repository = role.repository
        AND r.role = role.name AND r.epoch = role.epoch AND r.state = 'VOIDED'), 0),
    coalesce((SELECT max(version) FROM versions AS v WHERE v.repository = role.repository
        AND v.role = role.name AND v.epoch = role.epoch), 0),
    coalesce((SELECT max(last) FROM lost_versions AS l WHERE l.repository = role.repository
        AND l.role = role.name AND l.epoch = role.epoch), 0))
FROM roles AS role
"""
_SET_CHECKS = {
    "it is trusted, but was not accepted": """
        SELECT role.repository || '/' || role.name || ' version ' || role.trusted_version
        FROM roles AS role WHERE (role.trusted_version > 0 OR role.trusted_digest <> '')
        AND NOT EXISTS (SELECT 1 FROM versions AS v WHERE v.repository = role.repository
            AND v.role = role.name AND v.version = role.trusted_version
            AND v.digest = role.trusted_digest AND v.accepted)
    """,
    "a newer version than the trusted one was accepted": """
        SELECT role.repository || '/' || role.name FROM roles AS role
        WHERE EXISTS (SELECT 1 FROM versions AS v WHERE v.repository = role.repository
            AND v.role = role.name AND v.epoch = role.epoch AND v.accepted
            AND v.version > role.trusted_version)
    """,
    "it counts as accepted, but its reservation does not": """
        SELECT repository || '/' || role || ' epoch ' || epoch || ' version ' || version FROM (
            SELECT repository, role, epoch, version, digest FROM versions WHERE accepted
            EXCEPT SELECT repository, role, epoch, version, digest FROM reservations
            WHERE state = 'ACCEPTED')
    """,
    "its reservation is accepted, but it does not count so": """
        SELECT repository || '/' || role || ' epoch ' || epoch || ' version ' || version FROM (
            SELECT repository, role, epoch, version, digest FROM reservations
            WHERE state = 'ACCEPTED'
            EXCEPT SELECT repository, role, epoch, version, digest FROM versions WHERE accepted)
    """,
}


def check_versions(connection: sqlite3.Connection, facts: LogFacts, report: Report) -> None:
    """Marks, accepted and imported versions."""
    _check_marks(connection, facts, report)
    for what, sql in _SET_CHECKS.items():
        for (where,) in connection.execute(sql):
            report.flaw(where, what)
    missing = dict(facts.imported)
    for *place, digest, hashes in connection.execute(_IMPORTED):
        entry = missing.pop((place[0], place[1], place[2], place[3]), None)
        sha256 = json.loads(hashes or "{}").get("sha256")
        if wrong := differing(entry, {"payload_sha256": digest, "file_sha256": sha256}):
            report.flaw(f"import of {place}", f"the entry that tells of it differs in {wrong}")
    for gone in missing:
        report.flaw(f"import of {list(gone)}", "an entry tells of it, but it is gone")


def _check_marks(connection: sqlite3.Connection, facts: LogFacts, report: Report) -> None:
    """A mark is the highest version used in its epoch, or what a recovery lowered it to.

    The entry of that recovery may be lost: then a repair tells of versions in its epoch.
    """
    lost = {(each.repository, each.role, each.epoch) for each in facts.lost}
    for repository, role, epoch, mark, used in connection.execute(_MARKS):
        begun, floor = facts.lowered.get((repository, role), (0, 0))
        later = epoch > begun and (repository, role, epoch) in lost
        if epoch != begun and not later:
            report.flaw(f"{repository}/{role}", f"it is in epoch {epoch}, the log began {begun}")
        if mark != max(used, floor if epoch == begun else 0):
            what = "the high-water mark is not the highest version used"
            report.flaw(f"{repository}/{role}", what)


def check_state(view: SqliteView, facts: LogFacts, report: Report) -> None:
    """Identity, keys, repositories, delegations and repairs."""
    _check_identity(view, facts, report)
    _check_keys(view, facts, report)
    repositories = view.repositories()
    for repository in repositories:
        _check_repository(view, facts, report, repository)
        for role in view.roles(repository.name):
            _check_delegations(view, report, role)
    for name in facts.repositories.keys() - {repository.name for repository in repositories}:
        report.flaw(f"repository {name}", "an entry made it, but it is gone")
    _check_lost(view, facts, report)
    check_rotations(view, facts, report)


def _check_identity(view: SqliteView, facts: LogFacts, report: Report) -> None:
    identity = view.identity()
    report.ledger_id = identity.ledger_id
    expected = {
        "ledger_id": identity.ledger_id,
        "development": identity.development,
        "time": time_text(identity.created_at),
    }
    if wrong := differing(facts.genesis, expected):
        report.flaw("identity", f"the genesis entry differs in {wrong}")
    if identity.origin != facts.origin:
        report.flaw("identity", f"the log calls itself {facts.origin}")


def _check_keys(view: SqliteView, facts: LogFacts, report: Report) -> None:
    keys = view.keys()
    for key in keys:
        entry = facts.keys.get(key.name)
        if entry is None:
            report.flaw(f"key {key.name}", "no entry registered it")
        elif wrong := differing(entry, _registration(key)):
            report.flaw(f"key {key.name}", f"the entry that registered it differs in {wrong}")
        if key.scheme.is_rsa != (key.rsa_bits > 0):
            report.flaw(f"key {key.name}", f"{key.rsa_bits} is no modulus length of {key.scheme}")
        if key.state not in _possible_states(key, facts):
            report.flaw(f"key {key.name}", f"no entry made it {key.state.value}")
    for name in facts.keys.keys() - {key.name for key in keys}:
        report.flaw(f"key {name}", "an entry registered it, but it is gone")


def _registration(key: Key) -> dict[str, object]:
    adopted = key.origin is Origin.ADOPTED
    return {
        "event": (Event.KEY_ADOPTED if adopted else Event.KEY_CREATED).value,
        "key_sha256": key.fingerprint,
        "token": key.token,
        "scheme": key.scheme.value,
        "content": key.content.value,
        "cka_id": key.cka_id.hex(),
        "time": time_text(key.created_at),
    }


def _possible_states(key: Key, facts: LogFacts) -> Iterable[KeyState | str]:
    """Accepted metadata activates a PRE_ACTIVE key without an entry of its own."""
    told = facts.key_states.get(key.name)
    if told is not None:
        return (told,)
    if key.content is Content.TUF:
        return (KeyState.PRE_ACTIVE, KeyState.ACTIVE)
    return (KeyState.ACTIVE,)


def _check_repository(
    view: SqliteView, facts: LogFacts, report: Report, repository: Repository
) -> None:
    where = f"repository {repository.name}"
    entry = facts.repositories.get(repository.name)
    if entry is None:
        report.flaw(where, "no entry made it")
        return
    if repository.imported != (entry.get("event") == Event.REPOSITORY_REGISTERED):
        report.flaw(where, "the entry that made it tells another origin")
    development = entry.get("development") or facts.genesis.get("development")
    if repository.development != bool(development):
        report.flaw(where, "the entry that made it says otherwise whether it is for development")
    if wrong := differing(entry, {"time": time_text(repository.created_at)}):
        report.flaw(where, f"the entry that made it differs in {wrong}")
    root = view.role(repository.name, "root")
    rooted = root is not None and root.trusted_version > 0
    if (repository.state is RepositoryState.ACTIVE) != rooted:
        report.flaw(where, f"it is {repository.state.value}, and its root says otherwise")
    intended = repository.intended_root
    if (intended is None) != rooted:
        report.flaw(where, "only a repository without trusted root has an intended one")
    elif intended is not None and intended != intended_root(entry):
        report.flaw(where, "the entry that made it names other root keys")


def _check_delegations(view: SqliteView, report: Report, role: Role) -> None:
    """What the role delegates is what its trusted payload says, to its repository's own keys."""
    where = f"delegations by {role.repository}/{role.name}"
    granted: tuple[Delegation, ...] = ()
    if role.trusted_digest and role.name not in ("snapshot", "timestamp"):
        raw = view.payload(role.trusted_digest)
        granted = delegated_keys(Payload(raw=raw, signed=json.loads(raw, strict=False)))
    if set(granted) != set(view.delegations_by(role.repository, role.name)):
        report.flaw(where, "the trusted payload says otherwise")
    for delegation in granted:
        use = delegation.role if role.name == "root" else "delegated"
        material = view.material(delegation.fingerprint)
        owned = material is not None and material.repository == role.repository
        if material is None or not owned or use not in material.uses:
            report.flaw(where, f"key material {delegation.fingerprint} is not known as its {use}")


def _check_lost(view: SqliteView, facts: LogFacts, report: Report) -> None:
    if set(facts.lost) != set(view.all_lost_versions()):
        report.flaw("lost versions", "they are not those that the repairs' entries tell of")
