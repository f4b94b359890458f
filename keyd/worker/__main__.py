"""The token worker: ``python -m keyd.worker --fd N [--sandbox MODE] [--development]``.

Serves one inherited socket and ends when it closes. It is started by the daemon's supervisor, one
process per token, and is the only program that sees a PIN.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import threading
from typing import NoReturn

from keyd.worker.hardening import harden, silence
from keyd.worker.perform import Performer
from keyd.worker.sandbox import Sandbox, SandboxUnavailable, confine
from keyd.worker.serve import Server

_FINISH_S = 1.0
_END_S = 3.0


def main() -> NoReturn:
    """Run until the daemon closes the socket."""
    parser = argparse.ArgumentParser(prog="keyd.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--sandbox", type=Sandbox, default=Sandbox.UNIX)
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    harden()
    diagnostics = silence()
    refusal = _confined(arguments.sandbox)
    sock = socket.socket(fileno=arguments.fd)
    sock.set_inheritable(False)
    # A session thread that dies would leave requests unanswered: better a process that is replaced.
    threading.excepthook = lambda _: os._exit(1)
    performer = Performer(development=arguments.development, refusal=refusal)
    server = Server(sock, performer, diagnostics)
    server.start()
    _wait_for_the_end(sock)
    # A module may hang in C_Finalize, or crash in its exit handlers: neither may keep us.
    signal.setitimer(signal.ITIMER_REAL, _END_S)
    server.finish(_FINISH_S)
    os._exit(0)


def _confined(sandbox: Sandbox) -> str:
    """Why no module may be loaded, or ""; the daemon is told when it asks for one."""
    try:
        confine(sandbox)
    except SandboxUnavailable as error:
        return f"SANDBOX_{error}"
    return ""


def _wait_for_the_end(sock: socket.socket) -> None:
    # This thread never enters the module, so it notices the daemon's end even while one hangs.
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll()


if __name__ == "__main__":
    main()
