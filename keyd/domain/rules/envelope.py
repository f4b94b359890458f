"""Rules A2 to A5, A7 and A8: what every payload says about itself, whatever its type."""

from __future__ import annotations

import re
from collections.abc import Iterator

from keyd.domain.pointer import TOP, Path
from keyd.domain.rules.expiry import exact_time
from keyd.domain.rules.objections import invalid, refused
from keyd.domain.trust import TOP_LEVEL, Question, RepositoryView, RoleView, type_of_role
from keyd.errors import Finding

VERSION_MAX = 2**31 - 1

_SPEC_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)(\.(0|[1-9]\d*))?", re.ASCII)
_VERSION: Path = (TOP, "version")
_EXPIRES: Path = (TOP, "expires")
# How UTF-8 characters of two, three and four bytes begin, and how much longer `\uXXXX` is.
_ESCAPED = (
    (bytes(range(0xC2, 0xE0)), 6 - 2),
    (bytes(range(0xE0, 0xF0)), 6 - 3),
    (bytes(range(0xF0, 0xF5)), 12 - 4),
)


def check_type(question: Question, view: RepositoryView) -> Finding | None:
    """A2: the payload is of the requested role's type. Nothing else can be judged if it is not."""
    found, wanted = question.payload.signed["_type"], type_of_role(view.role.name)
    if found == wanted:
        return None
    if found not in TOP_LEVEL:
        message = "`_type` is root, targets, snapshot or timestamp in lower case"
        return invalid("A2", "ROLE_TYPE_UNKNOWN", (TOP, "_type"), message)
    message = f"role {view.role.name!r} is signed as {wanted}: name the role this payload is for"
    return invalid("A2", "ROLE_MISMATCH", (TOP, "_type"), message)


def check_envelope(question: Question, view: RepositoryView) -> Iterator[Finding]:
    """A3, A4, A5, A7 and A8."""
    yield from _check_spec_version(question)
    yield from _check_version(question, view)
    yield from _check_expiry(question, view.role)
    yield from _check_file_size(question.payload.raw, view.role)


def _check_spec_version(question: Question) -> Iterator[Finding]:
    match = _SPEC_VERSION.fullmatch(question.payload.signed["spec_version"])
    path = (TOP, "spec_version")
    if match is None:
        message = "write X.Y or X.Y.Z without leading zeros"
        yield invalid("A3", "SPEC_VERSION_MALFORMED", path, message)
    elif match[1] != "1":
        message = "keyd knows version 1 of the TUF specification"
        yield invalid("A3", "UNSUPPORTED_SPEC_VERSION", path, message)


def _check_version(question: Question, view: RepositoryView) -> Iterator[Finding]:
    version, role = question.payload.signed["version"], view.role
    step_max = role.rules.version_step_max
    if version < 1:
        yield invalid("A4", "VERSION_NOT_POSITIVE", _VERSION, "versions start at 1")
    elif version > VERSION_MAX:
        message = f"versions end at {VERSION_MAX}: clients could never be updated beyond"
        yield invalid("A4", "VERSION_ABOVE_CEILING", _VERSION, message)
    elif version <= role.high_water:
        yield _version_taken(question, view)
    elif role.name != "root" and 0 < step_max < version - role.high_water:
        message = (
            f"at most {role.high_water + step_max} may follow {role.high_water}: import what was "
            "published elsewhere, or raise version_step_max"
        )
        next_version = str(role.high_water + 1)
        yield refused("A4", "VERSION_STEP_TOO_LARGE", _VERSION, message, next_version=next_version)


def _version_taken(question: Question, view: RepositoryView) -> Finding:
    role, version = view.role, question.payload.signed["version"]
    if role.name == "root":
        # A root cannot skip a version (R1): no number would do better.
        details, advice = {}, "ask a quorum to void the reservation"
    else:
        details = {"next_version": str(role.high_water + 1)}
        advice = f"use version {role.high_water + 1}"
    known = view.known.get((role.name, version))
    if known is not None and known.digest not in ("", question.payload.digest):
        message = f"version {version} of {role.name} is bound to another payload: {advice}"
        reason = "VERSION_ALREADY_SIGNED_DIFFERENTLY"
    else:
        message = f"version {role.high_water} of {role.name} exists already: {advice}"
        reason = "VERSION_NOT_INCREASING"
    return refused("A7", reason, _VERSION, message, **details)


def _check_expiry(question: Question, role: RoleView) -> Iterator[Finding]:
    expires = exact_time(question.payload.signed["expires"])
    if expires is None:
        message = "write a real date as YYYY-MM-DDTHH:MM:SSZ, in UTC and with every zero"
        yield invalid("A5", "EXPIRES_MALFORMED", _EXPIRES, message)
        return
    remaining_s = (expires - question.now).total_seconds()
    shortest_s, longest_s = role.rules.expiry_min_s, role.rules.expiry_max_s
    if remaining_s <= 0:
        yield refused("A5", "EXPIRED", _EXPIRES, "choose a time after now")
    elif not shortest_s <= remaining_s <= longest_s:
        message = f"choose a time between {shortest_s} s and {longest_s} s after now"
        yield refused("A5", "EXPIRY_OUT_OF_WINDOW", _EXPIRES, message)


def _check_file_size(raw: bytes, role: RoleView) -> Iterator[Finding]:
    """A8 once more: python-tuf writes files in ASCII, where other characters take more bytes."""
    if raw.isascii():
        return
    longer = ((len(raw) - len(raw.translate(None, first))) * more for first, more in _ESCAPED)
    size, most = len(raw) + sum(longer), role.rules.payload_max_bytes
    if size > most:
        message = f"{size} bytes in a file, where non-ASCII characters are escaped: at most {most}"
        yield refused("A8", "PAYLOAD_TOO_LARGE", TOP, message)
