"""One worker's socket: frames out without ever blocking a caller, answers in on a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from keyd.wire.frames import FrameBuffer, FrameError
from keyd.wire.worker_pb2 import FromWorker, Response

_RECEIVE_BYTES = 256 * 1024


class Channel:
    """Owns the socket. `answered` and `closed` are called on the channel's reading thread.

    Nothing is read before `start`. From then on `closed` is called exactly once, whoever ended it,
    with words for an operator.
    """

    def __init__(
        self,
        sock: socket.socket,
        answered: Callable[[Sequence[Response]], None],
        closed: Callable[[Channel, str], None],
    ) -> None:
        self._sock = sock
        self._answered = answered
        self._closed = closed
        self._lock = threading.Condition()
        self._backlog = bytearray()
        self._writer: threading.Thread | None = None
        self._ended = False

    def start(self) -> None:
        """Begin to read: whoever is to be told of the end is ready for it."""
        threading.Thread(target=self._read, name="keyd-token-read", daemon=True).start()

    def send(self, frame: bytes) -> None:
        """Send at once what the socket takes; the rest follows from another thread.

        A worker that does not read must not hold a caller beyond its deadline.
        """
        with self._lock:
            if self._ended:
                return
            if not self._backlog:
                frame = frame[self._send_now(frame) :]
            if frame:
                self._backlog += frame
                self._start_writer()

    def close(self) -> None:
        """End the conversation; the worker ends itself when it notices."""
        with self._lock:
            self._ended = True
            self._lock.notify_all()
        # The reading thread wakes up, reports the end and closes the descriptor.
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _send_now(self, frame: bytes) -> int:
        try:
            return self._sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            # The reading thread sees the end of the stream and reports it.
            return len(frame)

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(
                target=self._write, name="keyd-token-write", daemon=True
            )
            self._writer.start()
        self._lock.notify_all()

    def _write(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._backlog or self._ended)
                if self._ended:
                    return
                # A copy: a lock held while the socket blocks would block every caller.
                part = bytes(self._backlog[:_RECEIVE_BYTES])
            try:
                sent = self._sock.send(part, socket.MSG_NOSIGNAL)
            except OSError:
                return
            with self._lock:
                self._backlog[:sent] = bytes(sent)
                del self._backlog[:sent]

    def _read(self) -> None:
        reason = "the channel failed"
        try:
            reason = self._converse()
        finally:
            with self._lock:
                self._ended = True
                self._lock.notify_all()
            self._sock.close()
            self._closed(self, reason)

    def _converse(self) -> str:
        """Hand on answers until the end; why it ended."""
        frames = FrameBuffer()
        try:
            while received := self._sock.recv(_RECEIVE_BYTES):
                frames.feed(received)
                for message in frames.messages():
                    self._answered(FromWorker.FromString(message).responses)
        except (FrameError, DecodeError) as error:
            return f"the worker sent nonsense ({type(error).__name__})"
        except OSError as error:
            return f"the worker's socket failed ({type(error).__name__})"
        return "the worker ended"
