"""From a request to what it means: key, repository, role and the strictly parsed payload."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from keyd.domain.keys import Key
from keyd.domain.payload import Payload, parse
from keyd.domain.policy import Action, Caller
from keyd.domain.records import Repository, Role
from keyd.domain.trust import TOP_LEVEL, Question, SigningKey
from keyd.errors import InvalidRequest, NotAllowed, NotFound
from keyd.ports import View
from keyd.services.authorize import denial
from keyd.services.evidence import rules_of
from keyd.services.placing import place
from keyd.services.world import World

CHECK_METHOD = "SigningService.CheckMetadata"


@dataclass(frozen=True)
class SigningRequest:
    """One payload, the key that is to sign it, and the role it is meant for.

    Digests are SHA-256 in 64 lower-case hex digits, or "" when the caller leaves them out.
    """

    key: str
    payload: bytes
    repository: str = ""
    role: str = ""
    key_sha256: str = ""
    payload_sha256: str = ""
    confirmed_change: str = ""
    request_id: str = ""

    def stands_alone(self) -> bool:
        """Whether no other payload of its kind can depend on this one, nor it on them."""
        named = bool(self.repository) and bool(self.role) and self.role not in TOP_LEVEL
        return named and b'"delegations"' not in self.payload

    def subject(self) -> str:
        """What is asked for, for the log."""
        return "/".join(part for part in (self.repository, self.role, self.key) if part)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the payload, 64 lower-case hex digits."""
        return hashlib.sha256(self.payload).hexdigest()

    def body_digest(self) -> str:
        """SHA-256 over all that the request means, to recognise a reused request id."""
        return self._body_digest

    @cached_property
    def _body_digest(self) -> str:
        parts = (self.key, self.repository, self.role, self.confirmed_change)
        digest = hashlib.sha256("\0".join(parts).encode() + b"\0")
        digest.update(bytes.fromhex(self.digest))
        return digest.hexdigest()


@dataclass(frozen=True)
class Reading:
    """A request whose caller is authorised and whose payload parsed; `key` None: only checked."""

    request: SigningRequest
    key: Key | None
    repository: Repository
    role: Role
    payload: Payload

    @property
    def version(self) -> int:
        """The version that the payload states."""
        version: int = self.payload.signed["version"]
        return version

    def question(self, world: World) -> Question:
        """What the rules are asked."""
        key = self.key
        return Question(
            payload=self.payload,
            now=world.clock.now(),
            key=SigningKey(key.name, key.fingerprint) if key else None,
            confirmed_change=self.request.confirmed_change,
        )


def read_request(
    world: World, view: View, caller: Caller, request: SigningRequest, method: str
) -> Reading:
    """Find key, repository and role, authorise for them, and parse the payload strictly.

    Raises: InvalidRequest, NotAllowed, NotFound.
    """
    _check_digest(request)
    if request.repository and request.role:
        # Before any look-up, so that strangers do not learn which keys and repositories exist.
        _authorise(world, caller, request, method, (request.repository, request.role))
    key = _key(view, request)
    repository, role = place(view, request.repository, request.role, key, request.payload)
    rules = rules_of(role)
    payload = parse(
        request.payload, max_bytes=rules.payload_max_bytes, extra_members=rules.extra_members
    )
    if (repository.name, role.name) != (request.repository, request.role):
        _authorise(world, caller, request, method, (repository.name, role.name))
    return Reading(request, key, repository, role, payload)


def _check_digest(request: SigningRequest) -> None:
    if not request.payload_sha256:
        return
    if request.digest != request.payload_sha256:
        raise InvalidRequest(
            "PAYLOAD_CHECKSUM_MISMATCH",
            "the payload does not have the digest the request states; it was damaged on its way",
        )


def _authorise(
    world: World, caller: Caller, request: SigningRequest, method: str, place: tuple[str, str]
) -> None:
    repository, role = place
    denied = denial(world, caller, Action(method, repository, role, request.key))
    if denied is not None:
        raise denied


def _key(view: View, request: SigningRequest) -> Key | None:
    if not request.key:
        return None
    key = view.key(request.key)
    if key is None:
        raise NotFound("KEY_UNKNOWN", f"there is no key {request.key!r}; keyd key list shows all")
    if request.key_sha256 and request.key_sha256 != key.fingerprint:
        raise NotAllowed(
            "KEY_MISMATCH",
            f"the key named {key.name!r} is not the key pair the request means: the fingerprints "
            "of the public keys differ; import the key again",
        )
    return key
