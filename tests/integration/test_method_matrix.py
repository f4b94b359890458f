"""Every method for every identity against verdicts written by hand (tests/vectors)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]

from keyd.domain.methods import MAY_TOUCH
from keyd.domain.methods import METHODS as TOUCHED
from keyd.rpc.revocation import RevocationList
from keyd_protos.v1 import signing_pb2
from tests.method_matrix import (
    IDENTITIES,
    METHODS,
    TABLE,
    Matrix,
    existing_methods,
    mismatches,
)
from tests.method_requests import to_sign
from tests.serving import LIMIT_S, Place, refused, serve
from tests.tally import Promise, tallied


def test_every_method_has_verdicts_and_every_verdict_an_identity() -> None:
    missing = set(existing_methods()) - set(METHODS)
    assert not missing, f"write verdicts for {sorted(missing)} into method_matrix.toml"
    named = [*METHODS.values(), TABLE["items"]]
    assert all(
        set(verdicts) == {"admin", "plain", "ci"} for row in named for verdicts in row.values()
    )
    unknown = set(METHODS) - set(existing_methods())
    assert all(METHODS[path]["here"]["admin"] == "unknown" for path in unknown)
    assert set(TABLE["stranger"]) <= set(METHODS)


def test_methods_that_touch_something_are_tried_elsewhere_too() -> None:
    """A method whose grant names resources must have verdicts for other resources."""
    for path in set(existing_methods()) - {"keyd.v1.SigningService/BatchSignMetadata"}:
        service, _, name = path.rpartition(".")[2].partition("/")
        touched = TOUCHED[f"{service}.{name}"] | MAY_TOUCH.get(f"{service}.{name}", frozenset())
        # A list of proposals leaves out what is elsewhere.
        expected = bool(touched) and name != "ListProposals"
        assert ("elsewhere" in METHODS[path]) == expected, path


@pytest.mark.parametrize("path", sorted(METHODS))
def test_verdicts(matrix: Matrix, path: str) -> None:
    with tallied(Promise.DENY_BY_DEFAULT, "method called by an identity") as tally:
        tally.injected(len(METHODS[path]) * len(IDENTITIES))
        assert mismatches(matrix, path) == []


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("name", ["admin", "plain", "ci"])
def test_each_item_of_a_batch_is_judged(matrix: Matrix, name: str, where: str) -> None:
    call: Any = matrix.channels[name].stream_stream(
        "/keyd.v1.SigningService/BatchSignMetadata",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=signing_pb2.BatchSignMetadataResponse.FromString,
    )
    item = to_sign(matrix.author, name, where)
    chunk = signing_pb2.BatchSignMetadataRequest(items=[item])
    (answer,) = call(iter([chunk]), timeout=LIMIT_S)
    denied = grpc.StatusCode.PERMISSION_DENIED.value[0]
    found = "deny" if answer.results[0].error.code == denied else "allow"
    assert found == TABLE["items"][where][name]


def no_first_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.rpc.gate.authorise_method", lambda _world, _call: None)


def no_second_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("keys", "key_creation", "tokens", "repositories", "audit", "check", "imports"):
        monkeypatch.setattr(
            f"keyd.services.{service}.demand", lambda _world, _caller, _action: None
        )


def no_revocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RevocationList, "check", lambda _self, _peer: None)


def everybody_administrates(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("repositories", "registration"):
        monkeypatch.setattr(
            f"keyd.services.{service}.demand_administrator", lambda _world, _caller, _action: None
        )


@pytest.mark.parametrize(
    ("remove", "path"),
    [
        (no_first_gate, "grpc.health.v1.Health/List"),
        (no_first_gate, "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
        (no_second_gate, "keyd.v1.KeyService/GetKey"),
        (no_second_gate, "keyd.v1.TokenService/ListTokenKeys"),
        (no_second_gate, "keyd.v1.RepositoryService/GetRepositoryState"),
        (no_revocation, "keyd.v1.KeyService/GetKey"),
        (everybody_administrates, "keyd.v1.RepositoryService/SetRoleRules"),
        (everybody_administrates, "keyd.v1.RepositoryService/RegisterRepository"),
    ],
)
def test_a_removed_check_is_noticed(
    matrix: Matrix,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
    path: str,
) -> None:
    remove(monkeypatch)
    assert mismatches(matrix, path)


def test_reflection_is_off_by_default(place: Place) -> None:
    with serve(place) as serving:
        call: Any = serving.local().stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
        )
        with refused() as refusal:
            list(call(iter([reflection_pb2.ServerReflectionRequest()]), timeout=LIMIT_S))
        assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
