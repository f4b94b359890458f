"""A pytest plugin that ends a process whose test cannot be ended.

pytest-timeout raises in the main thread. That does not end a test which then waits for ever for a
thread inside gRPC or a PKCS#11 module. Some time later all stacks are shown and the process exits:
under xdist that one test fails, a new process takes its place and the run goes on.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest

_STDERR = pytest.StashKey[int]()
_GRACE = "hanging_grace"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`hanging_grace`: seconds after a test's timeout until its process ends."""
    parser.addini(_GRACE, "seconds from a test's timeout until its process is ended", default="120")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr: while a test runs, descriptor 2 is pytest's own."""
    config.stash[_STDERR] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing hangs any more."""
    faulthandler.cancel_dump_traceback_later()
    os.close(config.stash[_STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Watch each test, its fixtures included, from outside the interpreter's lock."""
    marker = item.get_closest_marker("timeout")
    timeout_s = float(marker.args[0] if marker else item.config.getini("timeout"))
    after_s = timeout_s + float(item.config.getini(_GRACE))
    faulthandler.dump_traceback_later(after_s, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
