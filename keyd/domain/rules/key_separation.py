"""Rule R9 and the hard rules on key material, for the keys that a payload lists.

A targets payload does not say which role it is for: whoever holds a key of the top-level role and
of a delegated one has signed for both at once. Likewise for two repositories.
"""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.delegations import key_materials, key_set
from keyd.domain.payload import Payload
from keyd.domain.pointer import TOP, Path
from keyd.domain.rules.objections import graded, refused
from keyd.domain.trust import Question, RepositoryView
from keyd.errors import Finding

OFFLINE_ROLES = ("root", "targets")
ONLINE_ROLES = ("snapshot", "timestamp")


def top_level_targets_material(view: RepositoryView) -> frozenset[str]:
    """Fingerprints that a trusted root lists, or ever listed, for the role targets."""
    if view.trusted_root is None:
        return view.targets_material
    return view.targets_material | _listed(view.trusted_root, "targets").keys()


def check_owners(question: Question, view: RepositoryView, keys: Path) -> Iterator[Finding]:
    """No listed key belongs to another repository. `keys` is where the payload's keys stand."""
    if not view.foreign_material:
        return
    for fingerprint, keyid in key_materials(question.payload).items():
        owner = view.foreign_material.get(fingerprint)
        if owner is not None:
            message = f"this key belongs to repository {owner!r}: use a key of its own here"
            yield refused("A6", "KEY_BELONGS_TO_ANOTHER_REPOSITORY", (keys, keyid), message)


def check_content(question: Question, view: RepositoryView, keys: Path) -> Iterator[Finding]:
    """No listed key was made to sign other content than TUF: such a key signs unseen bytes."""
    if not view.other_content:
        return
    for fingerprint, keyid in key_materials(question.payload).items():
        content = view.other_content.get(fingerprint)
        if content is not None:
            message = f"this key was made for {content} content: list a key made for tuf"
            yield refused("A6", "KEY_CONTENT_MISMATCH", (keys, keyid), message)


def check_delegated_keys(question: Question, view: RepositoryView, keys: Path) -> Iterator[Finding]:
    """A targets payload gives no delegated role a key of the top-level role.

    Imported repositories are only warned: the key signs for the delegated role nowhere in keyd.
    """
    forbidden = top_level_targets_material(view)
    for fingerprint, keyid in key_materials(question.payload).items():
        if fingerprint in forbidden:
            message = "this key signs top-level targets: give the delegated role another key"
            path = (keys, keyid)
            yield graded(view.imported, "R9", "TARGETS_KEY_IN_DELEGATED_ROLE", path, message)


def check_root_keys(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """A root makes no delegated key a targets key, and keeps online keys out of offline roles."""
    payload = question.payload
    yield from _check_new_targets_keys(payload, view)
    online = {fingerprint: role for role in ONLINE_ROLES for fingerprint in _listed(payload, role)}
    for role in OFFLINE_ROLES:
        warn = view.imported or view.rules_of(role).allow_online_key_in_offline_role
        for fingerprint, keyid in _listed(payload, role).items():
            if fingerprint in online:
                message = f"{online[fingerprint]} signs online with {keyid}: keep it out of {role}"
                path = (((TOP, "roles"), role), "keyids")
                yield graded(warn, "R9", "ONLINE_KEY_IN_OFFLINE_ROLE", path, message)


def _check_new_targets_keys(payload: Payload, view: RepositoryView) -> Iterator[Finding]:
    delegated = view.delegated_material
    if view.targets is not None:
        delegated |= key_materials(view.targets).keys()
    # Keys that conflict already are dealt with where they are used; root must stay signable.
    old = _listed(view.trusted_root, "targets") if view.trusted_root is not None else {}
    for fingerprint, keyid in _listed(payload, "targets").items():
        if fingerprint in delegated and fingerprint not in old:
            message = f"{keyid} has signed for a delegated role: choose a fresh key for targets"
            path = (((TOP, "roles"), "targets"), "keyids")
            yield refused("R9", "TARGETS_KEY_IN_DELEGATED_ROLE", path, message)


def _listed(payload: Payload, role: str) -> dict[str, str]:
    """Fingerprint to key id of the keys a payload lists for a role."""
    keys = key_set(payload, role, "")
    if keys is None:
        return {}
    return {fingerprint: keyid for keyid, fingerprint in keys.fingerprints.items()}
