"""The hand-written list of methods against the contract that is really served."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from keyd.domain.methods import MAY_TOUCH, METHODS, PROPOSED, Resource

_CONTRACT = tuple(
    f"keyd_protos.v1.{name}_pb2"
    for name in (
        "signing",
        "keys",
        "tokens",
        "repositories",
        "rotations",
        "officers",
        "proposals",
        "audit",
    )
)
_STANDARD = ("grpc_health.v1.health_pb2", "grpc_reflection.v1alpha.reflection_pb2")


def _served(*modules: str) -> Iterator[tuple[str, Any]]:
    for module in modules:
        services = importlib.import_module(module).DESCRIPTOR.services_by_name
        for service in services.values():
            for method in service.methods:
                yield f"{service.name}.{method.name}", method


def test_every_method_of_the_contract_is_listed_and_no_other() -> None:
    assert set(METHODS) - PROPOSED == {name for name, _ in _served(*_CONTRACT, *_STANDARD)}


def test_what_a_request_names_is_what_the_list_demands() -> None:
    """A method whose request has a `token` must not be grantable without naming one."""
    for name, method in _served(*_CONTRACT):
        fields = {field.name for field in method.input_type.fields}
        named = {resource for resource in Resource if resource.value in fields}
        if name.startswith("KeyService.") and "name" in fields:
            named.add(Resource.KEY)
        assert named <= METHODS[name], name


def test_what_a_call_may_touch_is_no_more_than_it_must() -> None:
    assert all(touched and not touched & METHODS[name] for name, touched in MAY_TOUCH.items())
    assert {name for name in METHODS if name.startswith("ProposalService.")} <= set(MAY_TOUCH)
