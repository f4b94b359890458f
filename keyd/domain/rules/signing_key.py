"""Rules A2 and A6 on the key that is asked to sign, and the hard rules on key material."""

from __future__ import annotations

from collections.abc import Iterator

from keyd.domain.rules.key_separation import top_level_targets_material
from keyd.domain.rules.objections import wrong_key
from keyd.domain.trust import TOP_LEVEL, KeySet, Question, RepositoryView
from keyd.errors import Finding


def check_signing_key(
    question: Question, view: RepositoryView, required: tuple[KeySet, ...]
) -> Iterator[Finding]:
    """The key is this repository's, may sign this role and is listed for it.

    Root: listed by the trusted (or intended) root or by the payload. Several delegators: by one.
    """
    key, role = question.key, view.role.name
    if key is None:
        return
    owner = view.foreign_material.get(key.fingerprint)
    if owner is not None:
        message = f"key {key.name!r} belongs to repository {owner!r}: use a key of its own here"
        yield wrong_key("A2", "KEY_BELONGS_TO_ANOTHER_REPOSITORY", message)
    if key.roles and role not in key.roles:
        message = f"key {key.name!r} is bound to {', '.join(sorted(key.roles))}: use another key"
        yield wrong_key("A2", "ROLE_NOT_ALLOWED_FOR_KEY", message)
    if role not in TOP_LEVEL and key.fingerprint in top_level_targets_material(view):
        message = "its signature would count as top-level targets too: use another key"
        yield wrong_key("A2", "TARGETS_KEY_IN_DELEGATED_ROLE", message)
    if required and not any(key.fingerprint in keys.fingerprints.values() for keys in required):
        delegators = ", ".join(keys.delegator for keys in required)
        message = f"{delegators} does not list key {key.name!r} for {role!r}: use a listed key"
        yield wrong_key("A6", "KEY_NOT_IN_ROLE", message)
