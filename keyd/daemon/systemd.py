"""What systemd wants to hear from a service of Type=notify (sd_notify(3)), without its library."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*lines: str) -> None:
    """Send assignments such as "READY=1" to whoever started us; nothing happens without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        # Whoever listened may be gone; that must not end a daemon that signs (sd_notify(3)).
        contextlib.suppress(OSError),
    ):
        sender.sendto("\n".join(lines).encode(), address)


def reloading() -> tuple[str, str]:
    """The assignments that open a reload (Type=notify-reload needs the time)."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_interval_s() -> float | None:
    """How often to send WATCHDOG=1: half of what systemd tolerates; None: it does not watch us."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    tolerated = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    return tolerated / 2 if tolerated > 0 else None
