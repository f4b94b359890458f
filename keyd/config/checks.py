"""What no single setting can know: contradictions between settings, and files that must exist."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from keyd import trusted_paths
from keyd.config.policy_file import load_policy
from keyd.config.problems import ConfigurationError, pointer, problem
from keyd.config.settings import Settings
from keyd.errors import Finding


def contradictions(settings: Settings) -> list[Finding]:
    """Problems that need no look at the disk."""
    return [*_listeners(settings), *_tokens(settings), *_places(settings)]


def _listeners(settings: Settings) -> Iterator[Finding]:
    unix = settings.listen.unix
    if not unix and settings.listen.tcp is None:
        yield problem("NO_LISTENER", "/listen", "nothing to listen on: add a [[listen.unix]]")
    for member in ("path", "principal"):
        for value in _twice(str(getattr(listener, member)) for listener in unix):
            words = f"two [[listen.unix]] have the {member} {value!r}"
            yield problem("LISTENER_TWICE", "/listen/unix", words)


def _tokens(settings: Settings) -> Iterator[Finding]:
    names = [token.name for token in settings.token]
    for member in ("name", "uri"):
        for value in _twice(str(getattr(token, member)) for token in settings.token):
            words = f"two [[token]] have the {member} {value!r}"
            yield problem("TOKEN_TWICE", "/token", words)
    if settings.audit.log_token and settings.audit.log_token not in names:
        words = f"audit.log_token names no [[token]]: {settings.audit.log_token!r}"
        yield problem("TOKEN_UNKNOWN", "/audit/log_token", words)


def _twice(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _places(settings: Settings) -> Iterator[Finding]:
    ledger, anchor = settings.daemon.ledger, settings.daemon.anchor
    if anchor == ledger or ledger in anchor.parents or anchor in ledger.parents:
        words = "daemon.anchor must lie outside daemon.ledger, best on another disk"
        yield problem("ANCHOR_INSIDE_LEDGER", "/daemon/anchor", words)
    if settings.development.opaque_may_sign_tuf and not settings.daemon.development:
        words = "development.opaque_may_sign_tuf needs daemon.development = true"
        yield problem("DEVELOPMENT_ONLY", "/development/opaque_may_sign_tuf", words)


def unusable_files(settings: Settings) -> list[Finding]:
    """Files that the configuration names and the daemon could not use; opens no token."""
    return [*_policy(settings), *_certificates(settings), *_token_files(settings)]


def _policy(settings: Settings) -> Iterator[Finding]:
    path = settings.policy.file
    try:
        load_policy(path)
    except ConfigurationError as error:
        for found in error.findings:
            yield problem(found.reason, "/policy/file" + found.pointer, f"{path}: {found.message}")


def _certificates(settings: Settings) -> Iterator[Finding]:
    tcp = settings.listen.tcp
    if tcp is None:
        return
    for member in ("certificate", "key", "client_ca", "revoked"):
        path: Path | None = getattr(tcp, member)
        if path is not None and (objection := _unreadable(path, private=member == "key")):
            yield problem("FILE_UNUSABLE", pointer("listen", "tcp", member), objection)


def _token_files(settings: Settings) -> Iterator[Finding]:
    for index, token in enumerate(settings.token):
        if objection := _unreadable(token.module):
            words = f"token {token.name!r}: module: {objection}"
            yield problem("FILE_UNUSABLE", pointer("token", index, "module"), words)
        kind, _, path = token.pin_source.partition(":")
        if kind == "file" and (objection := _unreadable(Path(path), private=True)):
            words = f"token {token.name!r}: PIN file: {objection}"
            yield problem("FILE_UNUSABLE", pointer("token", index, "pin_source"), words)


def _unreadable(path: Path, *, private: bool = False) -> str:
    """What keeps the daemon from using a file, or ""."""
    if objection := trusted_paths.file_objection(path):
        return objection
    if not os.access(path, os.R_OK):
        return f"{path} cannot be read by this user"
    if private and not trusted_paths.is_private(path):
        return f"{path} is open to others; type: chmod 600 {path}"
    return ""
