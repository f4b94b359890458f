"""TokenService: the hardware, and what it wants of people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keyd.domain.tokens import TokenStatus
from keyd.rpc.call import Call
from keyd.rpc.convert import event_out, token_key_out, token_out
from keyd.rpc.fields import Fields
from keyd.rpc.lanes import LaneName
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services import tokens
from keyd.services.world import World
from keyd_protos.v1 import tokens_pb2

# Longer than any token's PIN (PKCS#11 tokens say 255 at most).
_PIN_MAX = 255


class Tokens:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        admin = LaneName.ADMIN
        return bind(
            service_of(tokens_pb2.DESCRIPTOR, "TokenService"),
            {
                "ListTokens": Terms(self.list_tokens, lane=admin),
                "UnlockToken": Terms(self.unlock_token, lane=admin, slow=True),
                "QuarantineToken": Terms(self.quarantine_token, lane=admin),
                "ReleaseToken": Terms(self.release_token, lane=admin),
                "WatchTokens": Terms(self.watch_tokens, lane=LaneName.WATCH),
                "ListTokenKeys": Terms(self.list_token_keys, lane=admin, slow=True),
            },
        )

    def list_tokens(
        self, call: Call, _request: tokens_pb2.ListTokensRequest
    ) -> tokens_pb2.ListTokensResponse:
        """Every token's last known status."""
        found = tokens.list_tokens(self._world, call.caller)
        return tokens_pb2.ListTokensResponse(tokens=[token_out(status) for status in found])

    def unlock_token(
        self, call: Call, request: tokens_pb2.UnlockTokenRequest
    ) -> tokens_pb2.UnlockTokenResponse:
        """A PIN, presented once."""
        token, pin = _unlocking(request)
        status = tokens.unlock(self._world, call.caller, token, pin, call.timeout_s)
        return tokens_pb2.UnlockTokenResponse(token=token_out(status))

    def quarantine_token(
        self, call: Call, request: tokens_pb2.QuarantineTokenRequest
    ) -> tokens_pb2.QuarantineTokenResponse:
        """Used no more."""
        status = tokens.quarantine(self._world, call.caller, _token(request.token), request.comment)
        return tokens_pb2.QuarantineTokenResponse(token=token_out(status))

    def release_token(
        self, call: Call, request: tokens_pb2.ReleaseTokenRequest
    ) -> tokens_pb2.ReleaseTokenResponse:
        """Used again."""
        status: TokenStatus = tokens.release(
            self._world, call.caller, _token(request.token), request.comment
        )
        return tokens_pb2.ReleaseTokenResponse(token=token_out(status))

    def watch_tokens(
        self, call: Call, _request: tokens_pb2.WatchTokensRequest
    ) -> Iterator[tokens_pb2.WatchTokensResponse]:
        """Events until the peer leaves, may no longer watch, or the daemon drains."""
        for event in tokens.watch(self._world, call.caller, call.ended):
            call.check_continue()
            yield event_out(event)
        # Tells a peer that is still there why this ended.
        call.check_continue()

    def list_token_keys(
        self, call: Call, request: tokens_pb2.ListTokenKeysRequest
    ) -> tokens_pb2.ListTokenKeysResponse:
        """All key objects, strays included."""
        found = tokens.token_keys(self._world, call.caller, _token(request.token), call.timeout_s)
        return tokens_pb2.ListTokenKeysResponse(keys=[token_key_out(*pair) for pair in found])


def _token(name: str) -> str:
    fields = Fields()
    token = fields.name("/token", name)
    fields.check()
    return token


def _unlocking(request: tokens_pb2.UnlockTokenRequest) -> tuple[str, bytearray | None]:
    """Token and PIN; None presents the configured credential again."""
    fields = Fields()
    token = fields.name("/token", request.token)
    pin = None
    if request.WhichOneof("credential") == "pin":
        pin = bytearray(fields.octets("/pin", request.pin, _PIN_MAX))
        # One copy less in memory; protobuf and gRPC keep others that nobody can wipe.
        request.ClearField("pin")
    elif not request.retry_configured:
        fields.object_to("/pin", "FIELD_REQUIRED", "set a PIN, or retry_configured to true")
    fields.check()
    return token, pin
