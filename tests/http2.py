"""Just enough HTTP/2 (RFC 9113) to watch a server's reaction to peers that gRPC never is."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
_ACK = 1


@dataclass(frozen=True)
class Frame:
    """One frame (section 4.1)."""

    kind: int
    flags: int
    payload: bytes

    def settings(self) -> dict[int, int]:
        """Section 6.5.1."""
        return dict(struct.iter_unpack(">HI", self.payload))

    def goaway(self) -> tuple[int, bytes]:
        """Error code and debug data (section 6.8)."""
        return struct.unpack(">I", self.payload[4:8])[0], self.payload[8:]


class Connection:
    """A raw connection that has said hello and answers SETTINGS, and nothing else by itself."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._socket.connect(path)
        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, b""))

    def ping(self) -> None:
        self._socket.sendall(_frame(PING, 0, bytes(8)))

    def frames(self) -> Iterator[Frame]:
        """Until the server closes the connection."""
        while header := self._read(9):
            length = int.from_bytes(header[:3])
            frame = Frame(header[3], header[4], self._read(length))
            if frame.kind == SETTINGS and not frame.flags & _ACK:
                self._socket.sendall(_frame(SETTINGS, _ACK, b""))
            yield frame

    def first(self, kind: int) -> Frame:
        """The next frame of this kind."""
        for frame in self.frames():
            if frame.kind == kind:
                return frame
        raise AssertionError(f"the connection ended without a frame of kind {kind}")

    def close(self) -> None:
        self._socket.close()

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length and (part := self._socket.recv(length - len(data))):
            data += part
        return data


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + bytes(4) + payload
