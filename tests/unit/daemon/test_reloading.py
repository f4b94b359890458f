"""A reload that fails by a fault of keyd's own leaves the daemon as it was."""

from __future__ import annotations

from types import SimpleNamespace

from structlog.testing import capture_logs

from keyd.daemon.run import _Daemon, _reload


def test_any_fault_is_a_refusal() -> None:
    def fault() -> None:
        raise AssertionError

    daemon = SimpleNamespace(
        settings=SimpleNamespace(policy=SimpleNamespace(file=None)),
        servers=SimpleNamespace(read_tls=fault),
    )
    with capture_logs() as logs:
        _reload(_as_daemon(daemon))
    [told] = logs
    assert told["event"] == "reload_refused"
    assert told["reason"] == "INTERNAL"
    assert told["exc_info"] is True


def _as_daemon(parts: SimpleNamespace) -> _Daemon:
    return parts  # type: ignore[return-value] # all that is looked at before the fault
