"""The supervisor's own questions to a worker, asked one after the other."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from keyd.backends.config import TokenConfig
from keyd.backends.pins import LoginFailed
from keyd.backends.queue import RequestQueue
from keyd.backends.reconcile import to_found
from keyd.domain.keys import Key
from keyd.domain.public_keys import verify
from keyd.domain.token_uri import TokenUri
from keyd.domain.tokens import FoundKey
from keyd.errors import KeydError
from keyd.wire.worker_pb2 import (
    Failure,
    Inventory,
    KeyReference,
    Login,
    Open,
    Opened,
    Probe,
    Reopen,
    Request,
    Response,
    Sign,
    TokenMatch,
)

_CHALLENGE = b"keyd self-check, not TUF metadata\n"


class WorkerRefused(Exception):
    """The worker answered, and said no."""

    def __init__(self, failure: Failure) -> None:
        # Numbers without a name pass through protobuf.
        kind = failure.kind
        named = Failure.Kind.Name(kind) if kind in Failure.Kind.values() else str(kind)
        super().__init__(named, failure.code)
        self.failure = failure


class WorkerLost(Exception):
    """The worker ended or was killed before it answered."""


class Dialogue:
    """Typed questions over the queue's direct way. All raise WorkerRefused and WorkerLost."""

    def __init__(self, config: TokenConfig, uri: TokenUri, queue: RequestQueue) -> None:
        self._config = config
        self._match = TokenMatch(
            serial=uri.serial, label=uri.token, manufacturer=uri.manufacturer, model=uri.model
        )
        self._queue = queue

    def open(self) -> Opened:
        """Load the module and find the token."""
        request = Open(
            module=str(self._config.module),
            token=self._match,
            sessions=self._config.sessions,
            module_parameters=self._config.module_parameters,
        )
        return self._ask(Request(open=request), self._config.open_timeout_s).opened

    def reopen(self) -> Opened:
        """Initialise the module afresh and find the token again."""
        return self._ask(Request(reopen=Reopen()), self._config.open_timeout_s).opened

    def probe(self) -> None:
        """Read the token's information."""
        self._ask(Request(probe=Probe()), self._config.sign_timeout_s)

    def login(self, login: Login) -> None:
        """Present the PIN once. Raises: LoginFailed instead of the others."""
        try:
            self._ask(Request(login=login), self._config.open_timeout_s)
        except WorkerRefused as refused:
            raise LoginFailed(refused.failure) from refused
        except WorkerLost as lost:
            raise LoginFailed(None) from lost

    def inventory(self) -> tuple[FoundKey, ...]:
        """Every key object on the token."""
        answer = self._ask(Request(inventory=Inventory()), self._config.generate_timeout_s)
        waive_local = self._config.waive_local
        return tuple(to_found(pair, waive_local=waive_local) for pair in answer.key_pairs.pairs)

    def self_check(self, keys: Sequence[Key]) -> dict[str, Failure]:
        """Sign a challenge by each key and verify here; names of keys the token refused.

        Raises: SelfCheckFailed when a signature does not verify.
        """
        challenges = [_CHALLENGE + secrets.token_bytes(32) for _ in keys]
        requests = [sign_request(key, data) for key, data in zip(keys, challenges, strict=True)]
        refused = {}
        for key, data, outcome in zip(keys, challenges, self._each(requests), strict=True):
            if outcome.HasField("failure"):
                refused[key.name] = outcome.failure
            else:
                verify(key.public_der, key.scheme, data, outcome.signed.signature)
        return refused

    def _each(self, requests: Sequence[Request]) -> list[Response]:
        # One at a time, so that each has the worker's whole patience.
        return [self._answer(request, self._config.sign_timeout_s) for request in requests]

    def _ask(self, request: Request, limit_s: float) -> Response:
        answer = self._answer(request, limit_s)
        if answer.HasField("failure"):
            raise WorkerRefused(answer.failure)
        return answer

    def _answer(self, request: Request, limit_s: float) -> Response:
        try:
            [outcome] = self._queue.ask([request], limit_s)
        except KeydError as error:
            raise WorkerLost(error.message) from error
        if isinstance(outcome, KeydError):
            raise WorkerLost(outcome.message)
        return outcome


def sign_request(key: Key, data: bytes) -> Request:
    """A request to sign `data` by a registered key."""
    reference = KeyReference(cka_id=key.cka_id, public_der=key.public_der, scheme=key.scheme.value)
    return Request(sign=Sign(key=reference, data=data))
