"""Everything that can be called: keyd.v1, health and, if switched on, reflection."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.rpc.audit import Audit
from keyd.rpc.drain import Drain
from keyd.rpc.health import Health
from keyd.rpc.keys import Keys
from keyd.rpc.method import Method
from keyd.rpc.officers import Officers
from keyd.rpc.options import ServerOptions
from keyd.rpc.proposals import Proposals
from keyd.rpc.reflection import Reflection
from keyd.rpc.repositories import Repositories
from keyd.rpc.rotations import Rotations
from keyd.rpc.signing import Signing
from keyd.rpc.tokens import Tokens
from keyd.services.world import World


def all_methods(world: World, options: ServerOptions, drain: Drain) -> Mapping[str, Method]:
    """Methods by path; what is not here does not exist for any caller."""
    servicers = (
        Signing(world),
        Keys(world),
        Tokens(world),
        Repositories(world),
        Rotations(world),
        Officers(world),
        Proposals(world),
        Audit(world),
        Health(world, drain),
    )
    methods = {
        path: method for servicer in servicers for path, method in servicer.methods().items()
    }
    if options.reflection:
        services = sorted({path.split("/")[1] for path in methods})
        methods |= Reflection(services).methods()
    return methods
