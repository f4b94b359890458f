"""Just enough HTTP/2 (RFC 9113) to watch a server's reaction to peers that gRPC never is."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 1, 3, 4, 6, 7
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
_ACK = 1
_END_HEADERS = 4
_CANCEL = 8


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

    def ping(self, times: int) -> None:
        """All at once: the server may hang up on the third."""
        self._socket.sendall(_frame(PING, 0, bytes(8)) * times)

    def open_and_reset(self, path: str, streams: range) -> None:
        """Begin calls of a method and reset each at once; `streams` are odd numbers."""
        headers = _literal_headers(path)
        cancel = _CANCEL.to_bytes(4)
        self._socket.sendall(
            b"".join(
                _frame(HEADERS, _END_HEADERS, headers, stream)
                + _frame(RST_STREAM, 0, cancel, stream)
                for stream in streams
            )
        )

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


def _frame(kind: int, flags: int, payload: bytes, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _literal_headers(path: str) -> bytes:
    """The headers of a gRPC call, none of them indexed or compressed (RFC 7541 6.2.2)."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
