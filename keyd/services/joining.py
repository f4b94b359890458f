"""What a signature that is added to a bound version has to pass besides the key's own state.

The rules judged the payload when the version was bound. What depends on the signer, or must hold
whatever was judged then, is looked at again.
"""

from __future__ import annotations

from keyd.domain.difference import change
from keyd.domain.keys import Key
from keyd.domain.rules.objections import wrong_key
from keyd.domain.rules.root import check_confirmed
from keyd.domain.trust import TOP_LEVEL
from keyd.errors import Finding
from keyd.ports import View
from keyd.services.evidence import trusted
from keyd.services.reading import Reading
from keyd.services.refusals import refusal


def check_joining(view: View, reading: Reading, key: Key) -> None:
    """Raises: PolicyViolation (CHANGE_NOT_CONFIRMED), NotAllowed."""
    findings = (*unconfirmed_change(view, reading), *_targets_key(view, reading, key))
    if findings:
        raise refusal(findings)


def unconfirmed_change(view: View, reading: Reading) -> tuple[Finding, ...]:
    """R10 for a root that is bound and not yet trusted: every signer confirms its change.

    Once it is trusted there is nothing left to decide: late signers of its threshold just add.
    """
    before = trusted(view, reading.repository.name, "root")
    if reading.role.name != "root" or before is None:
        return ()
    if reading.version != before.signed["version"] + 1:
        return ()
    return tuple(check_confirmed(reading.request.confirmed_change, change(before, reading.payload)))


def _targets_key(view: View, reading: Reading, key: Key) -> tuple[Finding, ...]:
    """Root may have made a targets key of this one since the version was bound."""
    material = view.material(key.fingerprint)
    targets = material is not None and "targets" in material.uses
    if reading.role.name in TOP_LEVEL or not targets:
        return ()
    message = f"key {key.name!r} signs top-level targets by now: use another key"
    return (wrong_key("A2", "TARGETS_KEY_IN_DELEGATED_ROLE", message),)
