"""A pytest plugin that ends a shard in time: a test that hangs is shown, not just killed.

Every test gets what is left of the shard's time as its time-out, if that is less than its own. The
one that is running when the time is up fails like any other, with its traceback and its output;
none is begun after it, and pytest writes its report. Loaded with ``-p tests.shard_limit``;
`KEYD_SHARD_ENDS` is the moment, in seconds of `time.monotonic()`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator

import pytest

VARIABLE = "KEYD_SHARD_ENDS"
# No test is begun with less: pytest-timeout takes nought for "never".
_LEAST_S = 1.0


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Shorten the test's time-out; stop the session once the time is up."""
    left_s = float(os.environ[VARIABLE]) - time.monotonic()
    own = item.get_closest_marker("timeout")
    own_s = _seconds(own) if own else None
    if own_s is None or own_s > left_s:
        item.add_marker(pytest.mark.timeout(max(left_s, _LEAST_S)), append=False)
    try:
        return (yield)
    finally:
        if float(os.environ[VARIABLE]) - time.monotonic() < _LEAST_S:
            item.session.shouldstop = "the shard's time is up"


def _seconds(marker: pytest.Mark) -> float | None:
    """What a marker says, if it says a time: nought is "never"."""
    told = marker.args[0] if marker.args else marker.kwargs.get("timeout")
    return float(told) if told else None
