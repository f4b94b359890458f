"""Who holds the keys that are not on a token of this daemon, as far as rotations named them."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain import public_keys
from keyd.domain.rotation.changes import NewKey
from keyd.domain.rotation.standing import KeyFacts
from keyd.ports import View
from keyd.services.rotation.plans import plan_behind


def holders(view: View, repository: str) -> Mapping[str, KeyFacts]:
    """People's keys by fingerprint, as rotations of the repository named them."""
    found: dict[str, KeyFacts] = {}
    for rotation in view.rotations(repository):
        for change in plan_behind(rotation).change.changes:
            for key in change.add:
                if key.holder:
                    facts = facts_of(key)
                    found[facts.fingerprint] = facts
    return found


def facts_of(key: NewKey) -> KeyFacts:
    """A key held elsewhere."""
    fingerprint = public_keys.fingerprint_of(key.key_object or {})
    return KeyFacts(label=key.label, fingerprint=fingerprint, holder=key.holder)
