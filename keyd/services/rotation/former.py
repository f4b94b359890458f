"""The keys that roots have ever listed: clients of any of them may hold what those signed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from keyd.domain.delegations import delegated_keys
from keyd.domain.payload import Payload
from keyd.ports import View
from keyd.services.evidence import role_or_new
from keyd.services.rotation.files import recorded_payload


def former_keys(view: View, repository: str) -> Mapping[str, frozenset[str]]:
    """By role, the fingerprints of all keys that accepted roots here listed for it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for root in _roots(view, repository):
        for entry in delegated_keys(root):
            found[entry.role].add(entry.fingerprint)
    return {role: frozenset(keys) for role, keys in found.items()}


def _roots(view: View, repository: str) -> Iterator[Payload]:
    """Downwards from the newest, as far as they are recorded."""
    role = role_or_new(view, repository, "root")
    beyond = role.trusted_version + 1
    while before := view.accepted_before(repository, "root", role.epoch, beyond):
        epoch, beyond = before
        reservation = view.reservation(repository, "root", epoch, beyond)
        if reservation is not None:
            yield recorded_payload(view, reservation.digest)
