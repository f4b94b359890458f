"""Just enough HTTP/2 (RFC 9113) to be a peer that gRPC never is and to watch how it is met."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
WINDOW_UPDATE, CONTINUATION = 8, 9
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 6
NOTHING: Mapping[int, int] = {}
_ACK = 1
_END_STREAM = 1
_END_HEADERS = 4


@dataclass(frozen=True)
class Frame:
    """One frame (section 4.1)."""

    kind: int
    flags: int
    payload: bytes
    stream: int = 0

    def encode(self) -> bytes:
        """As it goes over the wire."""
        length, kind = len(self.payload).to_bytes(3), bytes([self.kind, self.flags])
        return length + kind + self.stream.to_bytes(4) + self.payload

    def settings(self) -> dict[int, int]:
        """Section 6.5.1."""
        return dict(struct.iter_unpack(">HI", self.payload))

    def goaway(self) -> tuple[int, bytes]:
        """Error code and debug data (section 6.8)."""
        return struct.unpack(">I", self.payload[4:8])[0], self.payload[8:]


class Connection:
    """A raw connection that has said hello and answers SETTINGS, and nothing else by itself."""

    def __init__(self, peer: socket.socket, settings: Mapping[int, int] = NOTHING) -> None:
        self._socket = peer
        hello = b"".join(struct.pack(">HI", *setting) for setting in settings.items())
        self.send(PREFACE + Frame(SETTINGS, 0, hello).encode())

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def ping(self, times: int) -> None:
        """All at once: the server may hang up on the third."""
        self.send(Frame(PING, 0, bytes(8)).encode() * times)

    def frames(self) -> Iterator[Frame]:
        """Until the server closes the connection."""
        while header := self._read(9):
            length = int.from_bytes(header[:3])
            stream = int.from_bytes(header[5:])
            frame = Frame(header[3], header[4], self._read(length), stream)
            if frame.kind == SETTINGS and not frame.flags & _ACK:
                self.send(Frame(SETTINGS, _ACK, b"").encode())
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


def over_unix(path: str, timeout_s: float) -> Connection:
    """A connection to a Unix socket."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(timeout_s)
    peer.connect(path)
    return Connection(peer)


def opening(path: str, stream: int) -> bytes:
    """The headers that begin a call."""
    return Frame(HEADERS, _END_HEADERS, literal_headers(path), stream).encode()


def whole_call(path: str, stream: int, message: bytes) -> bytes:
    """A call with its one request message and nothing to follow."""
    prefixed = b"\0" + len(message).to_bytes(4) + message
    return opening(path, stream) + Frame(DATA, _END_STREAM, prefixed, stream).encode()


def literal_headers(path: str) -> bytes:
    """The headers of a gRPC call, none of them indexed or compressed (RFC 7541 6.2.2)."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(literal(name, value) for name, value in headers.items())


def literal(name: str, value: str) -> bytes:
    """One header of at most 126 bytes each, without indexing."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
