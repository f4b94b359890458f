"""The connection to one daemon: made on first use, remade when the ground under it changes.

A channel does not survive a fork, and keeps its TLS credentials for ever. Therefore a child
process gets a channel of its own, and every call first looks whether profile or credential files
were replaced; calls under way finish on the channel they started on.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from keyd_client import profile as profiles
from keyd_client.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    KeydClientError,
    ProfileError,
)
from keyd_client.profile import Profile
from keyd_client.status import from_rpc_error, once_only

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Stamp = tuple[tuple[str, int, int, int], ...]

# Repeating these after a lost answer is not free: a PIN would be presented twice, an operator's
# act would be refused as already done. Everything else is idempotent by request id or by nature.
ONCE_ONLY = {
    "UnlockToken": "TokenService",
    "QuarantineToken": "TokenService",
    "ReleaseToken": "TokenService",
    "AdoptKey": "KeyService",
    "SuspendKey": "KeyService",
    "ResumeKey": "KeyService",
    "DeactivateKey": "KeyService",
    "MarkKeyCompromised": "KeyService",
    "DestroyKey": "KeyService",
    "BootstrapRepository": "RepositoryService",
    "RegisterRepository": "RepositoryService",
    "SetRoleRules": "RepositoryService",
    "StartRotation": "RotationService",
    "EnrolFirstOfficers": "OfficerService",
    "DecideProposal": "ProposalService",
    "ExecuteProposal": "ProposalService",
}
# gRPC's own retries lose the end of a stream whose server dies: the caller would wait for its whole
# deadline. A batch begins new streams by itself; whoever watches is told.
STREAMS = {"BatchSignMetadata": "SigningService", "WatchTokens": "TokenService"}
PATIENCE_S = 10.0
_RESTARTING_S = 0.5
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = {
    "methodConfig": [
        {"name": [{}], "retryPolicy": _RETRY},
        {
            "name": [
                {"service": f"keyd.v1.{service}", "method": method}
                for method, service in (ONCE_ONLY | STREAMS).items()
            ]
        },
    ]
}
_OPTIONS = (
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # One payload of 3,750,000 bytes with its frame and signatures fits.
    ("grpc.max_send_message_length", 5 * 2**20),
    ("grpc.max_receive_message_length", 5 * 2**20),
    # Every finding of a large payload travels in trailing metadata.
    ("grpc.max_metadata_size", 64 * 2**10),
    # Whoever sets https_proxy means the web, not the daemon that holds the keys.
    ("grpc.enable_http_proxy", 0),
    # keyd closes a connection that is idle for five seconds, and a call that meets that moment may
    # be one that must not be repeated. gRPC leaves after once to twice this time: always earlier.
    ("grpc.client_idle_timeout_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass
class OpenChannel:
    """A channel, what it was made from, and how many calls are on it."""

    channel: grpc.Channel
    profile: Profile
    stamp: Stamp
    users: int = 0
    retired: bool = False
    answered: bool = False


class Connection:
    """The way to the daemon of one profile, by name (read again when it changes) or as given."""

    def __init__(self, source: str | Profile) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._open: OpenChannel | None = None
        _connections.add(self)

    @property
    def profile(self) -> Profile:
        """The profile in force now. Raises: ProfileError."""
        path = self._find()
        with self._lock:
            opened = self._open
        if opened is not None and opened.stamp == _stamp(path, opened.profile):
            return opened.profile
        return self._load(path)

    def call(
        self,
        method: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[Q, R]],
        request: Q,
        timeout_s: float | None = None,
    ) -> R:
        """Make a unary call within `timeout_s` (None: the profile's), retries included.

        gRPC retries UNAVAILABLE by itself, five times within a second or two. If the daemon then
        says when to come again (RetryInfo), or has answered on this channel before and is gone,
        this waits and repeats the very same request, for ten seconds at most.
        Raises: KeydClientError.
        """
        repeatable = request.DESCRIPTOR.name.removesuffix("Request") not in ONCE_ONLY
        with self.lease() as opened:
            limit = timeout_s or opened.profile.timeout_s
            began = time.monotonic()
            unavailable: KeydClientError | None = None
            while True:
                left = began + limit - time.monotonic()
                try:
                    answer = method(opened.channel)(request, timeout=max(0.0, left))
                except grpc.RpcError as failure:
                    error = from_rpc_error(failure, opened.profile.target, limit)
                    if unavailable and isinstance(error, DeadlineExceeded):
                        raise unavailable from failure  # the cause, not that time ran out meanwhile
                    pause = _pause(error, opened) if repeatable else None
                    until = began + min(limit, PATIENCE_S)
                    if pause is None or time.monotonic() + pause >= until:
                        raise (error if repeatable else once_only(error)) from failure
                    unavailable = error
                    threading.Event().wait(pause)
                else:
                    opened.answered = True
                    return answer

    @contextmanager
    def lease(self) -> Iterator[OpenChannel]:
        """The channel as the files demand it now; it stays open until the block ends."""
        with self._lock:
            opened = self._current()
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                self._close_if_done(opened)

    def close(self) -> None:
        """Close the channel once its calls have ended; a later call opens a new one."""
        with self._lock:
            self._retire()

    def _find(self) -> Path | None:
        return profiles.find(self._source) if isinstance(self._source, str) else None

    def _load(self, path: Path | None) -> Profile:
        if isinstance(self._source, Profile):
            return self._source
        return profiles.load(path or profiles.find(self._source))

    def _current(self) -> OpenChannel:
        path = self._find()
        if self._open is not None:
            if self._open.stamp == _stamp(path, self._open.profile):
                return self._open
            self._retire()
        # Stamped before reading: files replaced meanwhile are read again at the next call.
        own = _seen(path)
        profile = self._load(path)
        stamp = own + _seen(*profile.credential_files)
        self._open = OpenChannel(_dial(profile), profile, stamp)
        return self._open

    def _retire(self) -> None:
        if self._open is not None:
            self._open.retired = True
            self._close_if_done(self._open)
            self._open = None

    @staticmethod
    def _close_if_done(opened: OpenChannel) -> None:
        if opened.retired and not opened.users:
            opened.channel.close()

    def start_anew_after_fork(self) -> None:
        """Forget what belongs to the parent; closing its channel here could block for ever."""
        self._lock = threading.Lock()
        if self._open is not None:
            _inherited.append(self._open)
            self._open = None


def _pause(error: KeydClientError, opened: OpenChannel) -> float | None:
    """How long to wait before the same call is worth another try, seconds; None: it is not."""
    if not isinstance(error, BackendUnavailable):
        return None
    if error.reason == "DAEMON_UNREACHABLE":
        return _RESTARTING_S if opened.answered else None
    return error.retry_after_s


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
_inherited: list[OpenChannel] = []


def _after_fork() -> None:
    for connection in list(_connections):
        connection.start_anew_after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _dial(profile: Profile) -> grpc.Channel:
    credentials = profiles.read_credentials(profile)
    options: list[tuple[str, Any]] = list(_OPTIONS)
    if credentials is None:
        return grpc.insecure_channel(profile.target, options)
    if profile.server_name:
        options.append(("grpc.default_authority", profile.server_name))
    tls = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
    return grpc.secure_channel(profile.target, tls, options)


def _stamp(path: Path | None, profile: Profile) -> Stamp:
    return _seen(path) + _seen(*profile.credential_files)


def _seen(*files: Path | None) -> Stamp:
    """What tells whether files were replaced or rewritten. Raises: ProfileError if one is gone."""
    stamps = []
    for file in filter(None, files):
        try:
            status = file.stat()
        except OSError as error:
            raise ProfileError(
                "CREDENTIAL_UNREADABLE", f"cannot read {file}: {error.strerror}"
            ) from error
        stamps.append((str(file), status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(stamps)
