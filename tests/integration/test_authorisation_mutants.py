"""Each check of a grant in the services taken out, one at a time: the method matrix notices.

The checks are found in the code, so that one added tomorrow is taken out too. Who may call what is
judged twice, by the gate of all calls and by each service; either must do alone.
"""

from __future__ import annotations

import pkgutil
import re

import pytest

import keyd.services
from keyd.domain import canonical
from keyd_protos.v1 import signing_pb2
from tests.method_matrix import METHODS, Matrix, existing_methods, mismatches
from tests.mutants import Mutant, mutants, mutated
from tests.tally import Promise, tallied
from tests.worlds import ROOT_KEYS

SERVICES = [
    f"keyd.services.{module.name}" for module in pkgutil.iter_modules(keyd.services.__path__)
]
GRANTS = ("demand", "demand_administrator", "denial", "_authorise", "_enforce")
# A batch is let in by the first gate alone; its items are judged one by one.
BATCH = "keyd.v1.SigningService/BatchSignMetadata"
OURS = sorted(
    path
    for path in METHODS
    if path in existing_methods() and path.startswith("keyd.") and path != BATCH
)
_ACTION = re.compile(r'"(\w+Service)\.(\w+)"')


def found(modules: list[str], *checks: str) -> list[Mutant]:
    return [mutant for module in modules for mutant in mutants(module, checks)]


def named(listed: list[Mutant]) -> list[object]:
    return [pytest.param(mutant, id=str(mutant)) for mutant in listed]


# --- grants -------------------------------------------------------------------------------------


@pytest.fixture
def second_gate_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.rpc.gate.authorise_method", lambda _world, _call: None)


@pytest.mark.parametrize("path", OURS)
def test_services_alone_come_to_the_same_verdicts(
    matrix: Matrix, second_gate_only: None, path: str
) -> None:
    assert mismatches(matrix, path) == []


def verdict_without_a_place(matrix: Matrix) -> str:
    """A request that leaves it to keyd which role its key signs for, and may not sign for it."""
    payload = canonical.encode(matrix.author.root())
    item = signing_pb2.MetadataToSign(key=ROOT_KEYS[0], payload=payload)
    request = signing_pb2.SignMetadataRequest(metadata=item)
    return matrix.verdict("plain", "keyd.v1.SigningService/SignMetadata", request)


def test_a_role_that_was_left_out_is_judged_once_it_is_known(
    matrix: Matrix, second_gate_only: None
) -> None:
    assert verdict_without_a_place(matrix) == "deny"


def likely(mutant: Mutant) -> list[str]:
    """All paths, the one that the statement names first."""
    named_ones = [f"keyd.v1.{service}/{name}" for service, name in _ACTION.findall(mutant.text)]
    return [*named_ones, *(path for path in OURS if path not in named_ones)]


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("mutant", named(found(SERVICES, *GRANTS)))
def test_no_grant_is_judged_in_vain(matrix: Matrix, second_gate_only: None, mutant: Mutant) -> None:
    with tallied(Promise.DENY_BY_DEFAULT, "one check of a grant removed") as tally:
        tally.injected()
        with mutated(mutant):
            noticed = any(mismatches(matrix, path) for path in likely(mutant))
            assert noticed or verdict_without_a_place(matrix) != "deny"
