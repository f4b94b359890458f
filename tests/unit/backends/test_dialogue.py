"""What the supervisor makes of a worker's answers, whatever they say."""

from __future__ import annotations

import pytest

from keyd.backends.dialogue import WorkerRefused
from keyd.wire.worker_pb2 import Failure


@pytest.mark.parametrize(("number", "named"), [(11, "KIND_TOKEN_FAILED"), (99, "99"), (-1, "-1")])
def test_a_refusal_of_any_kind_can_be_told(number: int, named: str) -> None:
    failure = Failure(code="DeviceError")
    failure.kind = number  # type: ignore[assignment]
    assert WorkerRefused(failure).args == (named, "DeviceError")
