"""Runways of roles, from what is recorded of their keys and the people behind them."""

from __future__ import annotations

from datetime import datetime

from keyd.domain.delegations import key_set
from keyd.domain.keys import KeyState
from keyd.domain.records import Repository
from keyd.domain.runway import Runway
from keyd.domain.trust import KeySet
from keyd.ports import View
from keyd.services.evidence import sets_now, trusted
from keyd.services.rotation.holders import holders


def runway_of(view: View, repository: Repository, role: str, expires: datetime) -> Runway:
    """How long the role's newest version lasts, and what its next one takes."""
    approvals = view.base_threshold() if role == "root" and not repository.development else 0
    people: dict[str, None] = {}
    for keys in _lists(view, repository.name, role):
        people |= dict.fromkeys(_needed_elsewhere(view, repository.name, keys))
    return Runway(expires, tuple(people), approvals, role)


def _lists(view: View, repository: str, role: str) -> tuple[KeySet, ...]:
    if role != "root":
        return sets_now(view, repository, role)
    root = trusted(view, repository, "root")
    keys = key_set(root, "root", "root") if root is not None else None
    return (keys,) if keys is not None else ()


def _needed_elsewhere(view: View, repository: str, keys: KeySet) -> tuple[str, ...]:
    """Whose signatures the threshold needs besides those of the keys here, as far as known."""
    listed = dict.fromkeys(keys.fingerprints.values())
    held = {fp: view.key_by_fingerprint(fp) for fp in listed}
    here = frozenset(fp for fp, key in held.items() if key and key.state is KeyState.ACTIVE)
    missing = keys.missing(here)
    if not missing:
        return ()
    known = holders(view, repository)
    elsewhere = [fp for fp, key in held.items() if key is None]
    named = [known[fp].holder if fp in known else f"holder of {fp[:12]}" for fp in elsewhere]
    return tuple(named[:missing])
