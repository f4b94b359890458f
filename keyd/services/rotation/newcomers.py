"""Hash bins that were first published after a plan was made, and so are none of its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyd.domain.delegations import delegates
from keyd.domain.records_rotation import Rotation
from keyd.domain.rotation.plan import first_words
from keyd.errors import PolicyViolation
from keyd.ports import View
from keyd.services.evidence import role_or_new, sets_now, trusted
from keyd.services.rotation.files import signed_by
from keyd.services.rotation.plans import plan_behind


def check_newcomers(view: View, rotation: Rotation, meta: Mapping[str, Any]) -> None:
    """A snapshot's `meta` has no bin of a changed prefix that clients would refuse by its new keys.

    Raises: PolicyViolation (ROTATION_BINS_JOINED).
    """
    prefixes = {change.role for change in plan_behind(rotation).change.changes}
    ours = {file.role for file in view.rotation_files(rotation.name)}
    listed = {name.removesuffix(".json"): entry for name, entry in meta.items()}
    others = [r for r in listed if r.rpartition("-")[0] in prefixes and r not in ours]
    late = [
        role
        for role in others
        if _is_bin(view, rotation.repository, role)
        and not _is_signed(view, rotation.repository, role, listed[role]["version"])
    ]
    if late:
        raise PolicyViolation(
            "ROTATION_BINS_JOINED",
            f"{first_words(late)} came after the plan, with signatures of keys that "
            "leave: sign the next version with the new keys, list it in a snapshot, then continue",
        )


def _is_bin(view: View, repository: str, role: str) -> bool:
    found = (trusted(view, repository, name) for name in view.delegators_of(repository, role))
    bins = [delegates(payload).bins for payload in found if payload is not None]
    return any(each is not None and each.covers(role) for each in bins)


def _is_signed(view: View, repository: str, role: str, version: int) -> bool:
    """Whether the keys that are listed now have signed it."""
    epoch = role_or_new(view, repository, role).epoch
    reservation = view.reservation(repository, role, epoch, version)
    if reservation is None:
        return False
    made = frozenset(signed_by(view, reservation))
    return not any(keys.missing(made) for keys in sets_now(view, repository, role))
