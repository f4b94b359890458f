"""Officers: persons who approve, each with keys that sign nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from keyd.domain import canonical
from keyd.domain.keys import Scheme
from keyd.domain.names import check_line, check_name


class OfficerState(StrEnum):
    """A revoked person never comes back under the same name."""

    ENROLLED = "ENROLLED"
    REVOKED = "REVOKED"


class OfficerKeyState(StrEnum):
    """Only ACTIVE keys approve; a COMPROMISED one may have been used by somebody else."""

    ACTIVE = "ACTIVE"
    REPLACED = "REPLACED"
    COMPROMISED = "COMPROMISED"


class OfficerKeyKind(StrEnum):
    """Where the private half lives. FILE is for development ledgers only."""

    PKCS11 = "pkcs11"
    FILE = "file"


@dataclass(frozen=True)
class OfficerKey:
    """A public key that approves: DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7) and its scheme."""

    scheme: Scheme
    public_der: bytes
    kind: OfficerKeyKind
    state: OfficerKeyState = OfficerKeyState.ACTIVE

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, 64 lower-case hex digits."""
        return hashlib.sha256(self.public_der).hexdigest()


@dataclass(frozen=True)
class Officer:
    """One person.

    `principals` are the names under which this person calls the daemon: what they propose there,
    they do not approve. `groups` are what rules of the kind "one of them from qa" ask for.
    """

    name: str
    groups: frozenset[str] = frozenset()
    principals: frozenset[str] = frozenset()
    keys: tuple[OfficerKey, ...] = ()
    state: OfficerState = OfficerState.ENROLLED

    def active_key(self, fingerprint: str) -> OfficerKey | None:
        """The key with this fingerprint, if it approves now."""
        for key in self.keys:
            if key.fingerprint == fingerprint and key.state is OfficerKeyState.ACTIVE:
                return key
        return None

    @property
    def able(self) -> bool:
        """Whether this person can approve at all."""
        active = (key.state is OfficerKeyState.ACTIVE for key in self.keys)
        return self.state is OfficerState.ENROLLED and any(active)


@dataclass(frozen=True)
class OfficerSet:
    """All officers that ever were, by name."""

    officers: tuple[Officer, ...] = ()

    @property
    def able(self) -> tuple[Officer, ...]:
        """Those who can approve now."""
        return tuple(officer for officer in self.officers if officer.able)

    def get(self, name: str) -> Officer | None:
        """An officer by name, revoked ones included."""
        return next((officer for officer in self.officers if officer.name == name), None)

    def holder_of(self, fingerprint: str) -> Officer | None:
        """Whose key this is or was."""
        for officer in self.officers:
            if any(key.fingerprint == fingerprint for key in officer.keys):
                return officer
        return None

    def called(self, principal: str) -> Officer | None:
        """The officer who calls the daemon under this name."""
        return next((each for each in self.officers if principal in each.principals), None)

    def with_officer(self, changed: Officer) -> OfficerSet:
        """The same set with one officer added or replaced."""
        others = [officer for officer in self.officers if officer.name != changed.name]
        return OfficerSet(tuple(sorted((*others, changed), key=lambda officer: officer.name)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of everything an approval can depend on."""
        document = [officer_json(officer) for officer in self.officers]
        return hashlib.sha256(canonical.encode({"officers": document})).hexdigest()


def check_names(officer: Officer) -> None:
    """Refuse names by which one person could be taken for another.

    Raises: InvalidRequest (NAME_INVALID).
    """
    check_name("officer", officer.name)
    for group in officer.groups:
        check_name("group", group)
    for principal in officer.principals:
        check_line("principal", principal)


def officer_json(officer: Officer) -> dict[str, Any]:
    """An officer as JSON values; `public` is the key's DER in hex."""
    return {
        "name": officer.name,
        "groups": sorted(officer.groups),
        "principals": sorted(officer.principals),
        "state": officer.state.value,
        "keys": [
            {
                "scheme": key.scheme.value,
                "public": key.public_der.hex(),
                "kind": key.kind.value,
                "state": key.state.value,
            }
            for key in officer.keys
        ],
    }


def officer_of(document: dict[str, Any]) -> Officer:
    """The inverse of `officer_json`. Raises: KeyError, TypeError, ValueError."""
    return Officer(
        name=document["name"],
        groups=frozenset(document["groups"]),
        principals=frozenset(document["principals"]),
        keys=tuple(
            OfficerKey(
                scheme=Scheme(key["scheme"]),
                public_der=bytes.fromhex(key["public"]),
                kind=OfficerKeyKind(key["kind"]),
                state=OfficerKeyState(key["state"]),
            )
            for key in document["keys"]
        ),
        state=OfficerState(document["state"]),
    )
