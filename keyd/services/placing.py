"""Which repository and role a request means: a payload names neither."""

from __future__ import annotations

from collections.abc import Collection

from keyd.domain.keys import Key
from keyd.domain.payload import parse
from keyd.domain.records import Repository, Role
from keyd.domain.sizes import PAYLOAD_MAX_BYTES
from keyd.domain.trust import RepositoryState, type_of_role
from keyd.errors import InvalidRequest, NotFound
from keyd.ports import View
from keyd.services.evidence import role_or_new

Places = Collection[tuple[str, str]]


def place(
    view: View, repository: str, role: str, key: Key | None, payload: bytes
) -> tuple[Repository, Role]:
    """The repository and role named, or else the only ones this key may sign for.

    Raises: InvalidRequest (ROLE_AMBIGUOUS), NotFound (REPOSITORY_UNKNOWN).
    """
    if not repository or not role:
        repository, role = _inferred(view, repository, role, key, payload)
    found = view.repository(repository)
    if found is None:
        raise NotFound(
            "REPOSITORY_UNKNOWN",
            f"there is no repository {repository!r}; bootstrap or register it first",
        )
    return found, role_or_new(view, repository, role)


def _inferred(
    view: View, repository: str, role: str, key: Key | None, payload: bytes
) -> tuple[str, str]:
    places = _places(view, key) if key else set()
    places = {
        (where, what) for where, what in places if repository in ("", where) and role in ("", what)
    }
    if len(places) > 1:
        places = _of_type(places, payload)
    if len(places) == 1:
        return next(iter(places))
    name = f"key {key.name!r}" if key else "no key"
    raise InvalidRequest(
        "ROLE_AMBIGUOUS",
        f"{name} signs for {len(places) or 'no'} roles that this could be; name repository and "
        "role (--repository and --role, or KeydSigner.for_role)",
    )


def _places(view: View, key: Key) -> set[tuple[str, str]]:
    places = set()
    for repository, delegation in view.delegations_of_key(key.fingerprint):
        if delegation.bit_length:
            # Succinct bins: one row stands for many roles, which is never "the one role".
            places |= {(repository, f"{delegation.role}-{end}") for end in ("first", "last")}
        else:
            places.add((repository, delegation.role))
    for found in view.repositories():
        intended = found.intended_root
        if found.state is not RepositoryState.BOOTSTRAP or intended is None:
            continue
        if key.fingerprint in intended.fingerprints.values():
            places.add((found.name, "root"))
    return places


def _of_type(places: Places, payload: bytes) -> set[tuple[str, str]]:
    """Keep what the payload's `_type` allows: one key for snapshot and timestamp is common."""
    parsed = parse(payload, role_type=None, max_bytes=PAYLOAD_MAX_BYTES)
    kind = parsed.signed["_type"]
    return {(where, what) for where, what in places if type_of_role(what) == kind}
