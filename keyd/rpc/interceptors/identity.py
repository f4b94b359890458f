"""The first gate: who calls, and may they call this method at all? Denied unless granted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from keyd.domain.policy import Caller, may_call, principal_name
from keyd.errors import NotAllowed, Unimplemented
from keyd.ports import Clock
from keyd.rpc.call import Call
from keyd.rpc.peer import peer_of
from keyd.rpc.revocation import RevocationList
from keyd.services.world import World

Identify = Callable[[grpc.ServicerContext], Caller]


def socket_identity(principal: str, *, administrator: bool) -> Identify:
    """Everyone on this socket is `principal`; the file system decided who gets here."""
    caller = Caller(principal_name("unix", principal), administrator)
    return lambda _context: caller


def certificate_identity(clock: Clock, revoked: RevocationList | None) -> Identify:
    """The name in the client's certificate, its validity and revocation judged on every call.

    The handshake verified the chain, but a connection outlives it: a certificate may run out or be
    revoked meanwhile.
    """

    def identify(context: grpc.ServicerContext) -> Caller:
        peer = peer_of(_certificates(context))
        peer.check_validity(clock.now())
        if revoked is not None:
            revoked.check(peer)
        return Caller(peer.principal, local_admin=False)

    return identify


def _certificates(context: grpc.ServicerContext) -> Sequence[bytes]:
    found = context.auth_context().get("x509_pem_cert", ())
    return (found,) if isinstance(found, bytes) else found


def authorise_method(world: World, call: Call) -> None:
    """Let a caller through whom some grant gives this method; services judge the resources.

    Raises: Unimplemented (METHOD_UNKNOWN), NotAllowed (POLICY_DENIES).
    """
    method = call.method.policy_name
    if not method:
        raise Unimplemented(
            "METHOD_UNKNOWN",
            "this daemon does not know the method; compare versions (keyd --version)",
        )
    if call.method.terms.open_to_all or may_call(world.policy.current(), call.caller, method):
        return
    refusal = NotAllowed(
        "POLICY_DENIES",
        f"no grant gives {call.caller.principal} the method {method}; an administrator can add it "
        "to the policy file (keyd policy explain shows why)",
    )
    world.denials.record(call.caller, method, refusal, "")
    raise refusal
