"""Rules for root: R1, R2, R7, R8, R10, R11; R3 to R6 and R9 mostly through their own modules."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.delegations import key_materials, key_set, key_table
from keyd.domain.difference import Change
from keyd.domain.payload import Payload
from keyd.domain.pointer import TOP, Path
from keyd.domain.rules.expiry import exact_time, trusted_expiry
from keyd.domain.rules.key_separation import check_content, check_owners, check_root_keys
from keyd.domain.rules.objections import graded, invalid, refused
from keyd.domain.rules.required import own_root_set, trusted_root_set
from keyd.domain.rules.role_keys import ListedKeys, Listing, check_role_keys
from keyd.domain.trust import TOP_LEVEL, KeySet, Question, RepositoryView
from keyd.errors import Finding

_ROOT_ROLE: Path = ((TOP, "roles"), "root")


def check_root(question: Question, view: RepositoryView, change: Change) -> Iterator[Finding]:
    """All rules that only root payloads know."""
    payload = question.payload
    yield from _check_succession(question, view)
    yield from _check_role_set(payload)
    yield from _check_keys(payload, view)
    yield from check_owners(question, view, (TOP, "keys"))
    yield from check_content(question, view, (TOP, "keys"))
    yield from check_root_keys(question, view)
    yield from _check_reachable(payload, view)
    if view.trusted_root is None:
        yield from _check_intended(payload, view)
    else:
        yield from _check_change(question, view, view.trusted_root, change)


def _check_succession(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """R1 (TUF 5.3.5): clients walk from root to root without a gap."""
    trusted = view.trusted_root.signed["version"] if view.trusted_root else 0
    if question.payload.signed["version"] != trusted + 1:
        message = f"the next root is version {trusted + 1}"
        details = {"next_version": str(trusted + 1)}
        yield refused("R1", "ROOT_VERSION_GAP", (TOP, "version"), message, **details)


def _check_role_set(payload: Payload) -> Iterator[Finding]:
    """R2 (TUF 4.3)."""
    if payload.signed["roles"].keys() != set(TOP_LEVEL):
        message = "list exactly root, targets, snapshot and timestamp"
        yield invalid("R2", "ROLE_SET_WRONG", (TOP, "roles"), message)


def _check_keys(payload: Payload, view: RepositoryView) -> Iterator[Finding]:
    keys = ListedKeys((TOP, "keys"), payload.signed["keys"], key_table(payload))
    listings = [
        Listing(((TOP, "roles"), role), entry["keyids"], entry["threshold"], view.rules_of(role))
        for role, entry in payload.signed["roles"].items()
    ]
    yield from check_role_keys(keys, listings, view)


def _check_reachable(payload: Payload, view: RepositoryView) -> Iterator[Finding]:
    """R7 (TUF 5.3.4, 6.1): enough keys that are not known to be lost can still sign.

    Of the old list so can compromised ones that leave, by leave of officers, while they are fewer
    than a threshold: as many could sign any root in other hands, too.
    """
    # The intended set of root 1 equals its own, or `_check_intended` refuses.
    old = trusted_root_set(view) if view.trusted_root is not None else None
    own = own_root_set(payload)
    both = (
        (old, "OLD_THRESHOLD_UNREACHABLE", _dead_of_old(payload, view, old)),
        (own, "NEW_THRESHOLD_UNREACHABLE", view.unusable),
    )
    for keys, reason, dead in both:
        if keys is None:
            continue
        missing = keys.missing(frozenset(keys.fingerprints.values()) - dead)
        if missing:
            message = f"{keys.delegator} can reach its threshold only with {missing} more live keys"
            yield refused("R7", reason, _ROOT_ROLE, message)


def _dead_of_old(payload: Payload, view: RepositoryView, old: KeySet | None) -> frozenset[str]:
    stolen = view.compromised & frozenset(old.fingerprints.values() if old else ())
    if old is None or not old.missing(stolen):
        return view.unusable
    return view.unusable - (stolen - frozenset(key_materials(payload)))


def _check_intended(payload: Payload, view: RepositoryView) -> Iterator[Finding]:
    """Root 1 gives the root role what the administrator announced, no more and no less."""
    intended, own = view.bootstrap, own_root_set(payload)
    if intended is None or own is None:
        return
    same_keys = set(intended.fingerprints.values()) == set(own.fingerprints.values())
    if not same_keys or intended.threshold != own.threshold:
        message = "root 1 lists exactly the root keys and threshold of the bootstrap"
        yield refused("A6", "ROOT_DIFFERS_FROM_INTENDED", _ROOT_ROLE, message)


def _check_change(
    question: Question, view: RepositoryView, trusted: Payload, change: Change
) -> Iterator[Finding]:
    """R4, R8, R10 and R11: what root N+1 does to root N."""
    new = question.payload
    if trusted.signed.get("consistent_snapshot") and not new.signed.get("consistent_snapshot"):
        message = "consistent snapshots cannot be switched off: clients rely on them (TUF 6.2.1)"
        path = (TOP, "consistent_snapshot")
        yield refused("R8", "CONSISTENT_SNAPSHOT_REMOVED", path, message)
    yield from _check_same_keys(new, trusted)
    yield from check_confirmed(question.confirmed_change, change)
    yield from _check_root_expiry(question, view, trusted)


def _check_same_keys(new: Payload, trusted: Payload) -> Iterator[Finding]:
    """R4: a file has one signature for a key id, so no client could count it in both lists."""
    before, now = (key_set(each, "root", "") for each in (trusted, new))
    if before is None or now is None:
        return
    for keyid, fingerprint in now.fingerprints.items():
        if before.fingerprints.get(keyid, fingerprint) != fingerprint:
            message = "the trusted root has another key under this id: give the new key its own"
            yield refused("R4", "KEYID_REUSED", ((TOP, "keys"), keyid), message)


def check_confirmed(confirmed: str, change: Change) -> Iterator[Finding]:
    """R10: whoever signs has seen what this root changes; `confirmed` is the digest they name."""
    if confirmed != change.digest:
        message = "read what this root changes and confirm its digest (CheckMetadata shows both)"
        yield refused("R10", "CHANGE_NOT_CONFIRMED", TOP, message, change=change.digest)


def _check_root_expiry(
    question: Question, view: RepositoryView, trusted: Payload
) -> Iterator[Finding]:
    rules, path = view.role.rules, (TOP, "expires")
    old, new = trusted_expiry(trusted), exact_time(question.payload.signed["expires"])
    if old is not None and new is not None and new < old:
        warn = view.imported or rules.allow_shorter_root_expiry
        message = "expires before the root it replaces"
        yield graded(warn, "R11", "ROOT_EXPIRY_SHORTENED", path, message)
    if old is None or old <= question.now:
        warn = rules.allow_expired_trusted_root
        message = "the trusted root has expired: set allow_expired_trusted_root to go on from it"
        yield graded(warn, "R11", "TRUSTED_ROOT_EXPIRED", TOP, message)
