"""A Unix socket in front of a daemon's, which hangs up on both once something was sent."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType


class Relay:
    """Passes bytes on until `cut_after` some of them, once; then connections live on."""

    def __init__(self, path: Path, target: Path) -> None:
        self.target = target
        self.cuts = 0
        self._marker = b""
        self._delay_s = 0.0
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut_after(self, marker: bytes, delay_s: float) -> None:
        """Hang up so long after these bytes were passed on to the daemon."""
        with self._lock:
            self._marker, self._delay_s = marker, delay_s

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(self.target))
            back = threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True)
            back.start()
            self._pass_on(near, far, watched=True)
            back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        seen = b""
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if watched:
                    seen = (seen + data)[-131072:]
                    if self._is_due(seen):
                        break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_due(self, seen: bytes) -> bool:
        with self._lock:
            if not self._marker or self._marker not in seen:
                return False
            self._marker = b""
            self.cuts += 1
        time.sleep(self._delay_s)  # how far the daemon gets is what varies
        return True
