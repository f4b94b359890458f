"""What the gate knows about every method: its handler and the terms on which it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from keyd.rpc import limits
from keyd.rpc.lanes import LaneName


@dataclass(frozen=True)
class Terms:
    """How one method is served.

    `handler` takes (call, request), or (call, iterator of requests) if the method streams them,
    and returns a message, or an iterator of messages. `max_bytes` caps each received message
    before it is decoded. `slow` methods have the longer time limit. `open_to_all` methods need an
    identity but no grant.
    """

    handler: Callable[..., Any]
    max_bytes: int = limits.SMALL_REQUEST_MAX
    lane: LaneName = LaneName.WORK
    slow: bool = False
    open_to_all: bool = False


@dataclass(frozen=True)
class Method:
    """One method of one service, as its descriptor and terms tell."""

    path: str
    policy_name: str
    terms: Terms
    request: type[Message]
    streams_requests: bool
    streams_responses: bool
    strict: bool


def service_of(file: FileDescriptor, name: str) -> ServiceDescriptor:
    """The service called `name` of a generated module's DESCRIPTOR."""
    service: ServiceDescriptor = file.services_by_name[name]
    return service


def bind(service: ServiceDescriptor, terms: Mapping[str, Terms]) -> dict[str, Method]:
    """Methods by path ("/keyd.v1.KeyService/GetKey"); every method of the service has terms.

    Requests of keyd's own services are read strictly (see `keyd.rpc.receive`).
    """
    if set(terms) != set(service.methods_by_name):
        missing = set(service.methods_by_name) ^ set(terms)
        raise AssertionError(f"{service.full_name}: no terms for exactly {sorted(missing)}")
    strict = service.full_name.startswith("keyd.")
    bound = (_bind(service, service.methods_by_name[name], terms[name], strict) for name in terms)
    return {method.path: method for method in bound}


def _bind(
    service: ServiceDescriptor, descriptor: MethodDescriptor, terms: Terms, strict: bool
) -> Method:
    return Method(
        path=f"/{service.full_name}/{descriptor.name}",
        policy_name=f"{service.name}.{descriptor.name}",
        terms=terms,
        request=GetMessageClass(descriptor.input_type),
        streams_requests=descriptor.client_streaming,
        streams_responses=descriptor.server_streaming,
        strict=strict,
    )
