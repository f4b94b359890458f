"""What a signature that is added to a bound version has to pass besides the key's own state.

The rules judged the payload when the version was bound. What depends on the signer, or must hold
whatever was judged then, is looked at again.
"""

from __future__ import annotations

from keyd.domain.difference import change
from keyd.domain.payload import Payload
from keyd.domain.pointer import TOP
from keyd.domain.records import Repository, ReservationState, Role
from keyd.domain.rules.delegating import check_taken
from keyd.domain.rules.objections import refused, wrong_key
from keyd.domain.rules.root import check_confirmed
from keyd.domain.trust import TOP_LEVEL
from keyd.errors import Finding
from keyd.ports import View
from keyd.services.evidence import brought_back, delegated_elsewhere, trusted
from keyd.services.reading import Reading


def joining_findings(view: View, reading: Reading) -> tuple[Finding, ...]:
    """What forbids to add the reading's signature, if it names a key, to its bound version.

    VERSION_NOT_INCREASING, DELEGATION_NAME_INVALID, CHANGE_NOT_CONFIRMED,
    TARGETS_KEY_IN_DELEGATED_ROLE.
    """
    return (
        *_lost(view, reading),
        *taken_names(view, reading.repository, reading.role, reading.payload),
        *_unconfirmed_change(view, reading),
        *_targets_key(view, reading),
    )


def _lost(view: View, reading: Reading) -> tuple[Finding, ...]:
    """A7: keys here may have signed other bytes for a version that a repair took for used.

    Importing what was published binds such a version, but tells only what others signed.
    """
    role, version = reading.role, reading.version
    lost = view.lost_version(role.repository, role.name, role.epoch, version)
    if lost is None or lost.digest_of(version) == reading.payload.digest:
        return ()
    message = (
        f"version {version} of {role.repository}/{role.name} was used before this ledger lost what "
        f"it was: keys here sign no version up to {lost.last} again"
    )
    return (refused("A7", "VERSION_NOT_INCREASING", (TOP, "version"), message),)


def taken_names(
    view: View, repository: Repository, role: Role, payload: Payload
) -> tuple[Finding, ...]:
    """G3 for a bound version that is not accepted: others may delegate its names by now."""
    if repository.imported or "delegations" not in payload.signed:
        return ()
    bound = view.reservation(role.repository, role.name, role.epoch, payload.signed["version"])
    if bound is None or bound.state is ReservationState.ACCEPTED:
        return ()
    elsewhere, back = delegated_elsewhere(view, role, payload), brought_back(view, role, payload)
    return tuple(check_taken(payload, elsewhere, back, imported=False))


def _unconfirmed_change(view: View, reading: Reading) -> tuple[Finding, ...]:
    """R10 for a root that is bound and not yet trusted: every signer confirms its change.

    Once it is trusted there is nothing left to decide: late signers of its threshold just add.
    """
    before = trusted(view, reading.repository.name, "root")
    if reading.role.name != "root" or before is None:
        return ()
    if reading.version != before.signed["version"] + 1:
        return ()
    return tuple(check_confirmed(reading.request.confirmed_change, change(before, reading.payload)))


def _targets_key(view: View, reading: Reading) -> tuple[Finding, ...]:
    """Root may have made a targets key of this one since the version was bound."""
    key = reading.key
    material = view.material(key.fingerprint) if key else None
    targets = material is not None and "targets" in material.uses
    if key is None or reading.role.name in TOP_LEVEL or not targets:
        return ()
    message = f"key {key.name!r} signs top-level targets by now: use another key"
    return (wrong_key("A2", "TARGETS_KEY_IN_DELEGATED_ROLE", message),)
