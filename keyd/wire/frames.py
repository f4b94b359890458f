"""Frames on the worker's socket: a 4-byte big-endian length, then one message of that size."""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_REQUESTS_PER_FRAME = 64

_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The peer does not speak the protocol; nothing it sends after this means anything."""


def encode_frame(message: bytes) -> bytes:
    """`message` with its length in front. Raises: FrameError above MAX_FRAME_BYTES."""
    if len(message) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(message)} bytes is above {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(message)) + message


class FrameBuffer:
    """Collects received bytes and hands out complete messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, received: bytes | memoryview) -> None:
        """Append what a socket returned."""
        self._bytes += received

    def messages(self) -> Iterator[bytes]:
        """Take out every complete message. Raises: FrameError on a length above the maximum."""
        start = 0
        try:
            while len(self._bytes) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._bytes, start)
                if length > MAX_FRAME_BYTES:
                    raise FrameError(f"a frame of {length} bytes is announced")
                end = start + _LENGTH.size + length
                if len(self._bytes) < end:
                    return
                message = bytes(self._bytes[start + _LENGTH.size : end])
                start = end
                yield message
        finally:
            self._wipe(start)

    def _wipe(self, end: int) -> None:
        # A frame may have carried a typed PIN.
        self._bytes[:end] = bytes(end)
        del self._bytes[:end]
