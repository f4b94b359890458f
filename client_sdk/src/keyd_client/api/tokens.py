"""TokenService: the hardware, its state and its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc

from keyd_client.channel import Connection
from keyd_client.errors import DeadlineExceeded
from keyd_client.status import from_rpc_error
from keyd_protos.v1.tokens_pb2 import (
    ListTokenKeysRequest,
    ListTokensRequest,
    QuarantineTokenRequest,
    ReleaseTokenRequest,
    Token,
    TokenKey,
    UnlockTokenRequest,
    WatchTokensRequest,
    WatchTokensResponse,
)
from keyd_protos.v1.tokens_pb2_grpc import TokenServiceStub


class Tokens:
    """Tokens by name. Every method raises KeydClientError; `timeout_s` None: the profile's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, timeout_s: float | None = None) -> Sequence[Token]:
        """All tokens with their last known state."""
        answer = self._connection.call(
            lambda channel: TokenServiceStub(channel).ListTokens, ListTokensRequest(), timeout_s
        )
        return tuple(answer.tokens)

    def unlock(
        self, token: str, pin: bytes | None = None, *, timeout_s: float | None = None
    ) -> Token:
        """Present `pin` once, or (None) the configured credential again. Never repeated."""
        request = UnlockTokenRequest(token=token)
        if pin is None:
            request.retry_configured = True
        else:
            request.pin = pin
        return self._connection.call(
            lambda channel: TokenServiceStub(channel).UnlockToken, request, timeout_s
        ).token

    def quarantine(self, token: str, comment: str, *, timeout_s: float | None = None) -> Token:
        """Stop using a token until it is released."""
        request = QuarantineTokenRequest(token=token, comment=comment)
        return self._connection.call(
            lambda channel: TokenServiceStub(channel).QuarantineToken, request, timeout_s
        ).token

    def release(self, token: str, comment: str = "", *, timeout_s: float | None = None) -> Token:
        """Lift a quarantine."""
        request = ReleaseTokenRequest(token=token, comment=comment)
        return self._connection.call(
            lambda channel: TokenServiceStub(channel).ReleaseToken, request, timeout_s
        ).token

    def keys(self, token: str, *, timeout_s: float | None = None) -> Sequence[TokenKey]:
        """All key objects on a token, registered or not."""
        request = ListTokenKeysRequest(token=token)
        answer = self._connection.call(
            lambda channel: TokenServiceStub(channel).ListTokenKeys, request, timeout_s
        )
        return tuple(answer.keys)

    def watch(self, timeout_s: float = 3600.0) -> Iterator[WatchTokensResponse]:
        """The state of every token, then each change; ends quietly after `timeout_s` seconds.

        Leaving the loop ends the call.
        """
        with self._connection.lease() as opened:
            stream = TokenServiceStub(opened.channel).WatchTokens(
                WatchTokensRequest(), timeout=timeout_s
            )
            try:
                yield from stream
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, opened.profile.target, timeout_s)
                if not isinstance(error, DeadlineExceeded):
                    raise error from failure
            finally:
                stream.cancel()
