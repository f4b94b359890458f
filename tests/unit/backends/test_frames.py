"""Frames come out as they went in, however a socket cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.wire.frames import MAX_FRAME_BYTES, FrameBuffer, FrameError, encode_frame


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 200))
def test_any_cutting_gives_the_same_messages(messages: list[bytes], step: int) -> None:
    stream = b"".join(map(encode_frame, messages))
    frames = FrameBuffer()
    received = []
    for start in range(0, len(stream), step):
        frames.feed(stream[start : start + step])
        received += list(frames.messages())
    assert received == messages


def test_a_frame_above_the_maximum_is_refused_by_both_ends() -> None:
    with pytest.raises(FrameError):
        encode_frame(bytes(MAX_FRAME_BYTES + 1))
    frames = FrameBuffer()
    frames.feed((MAX_FRAME_BYTES + 1).to_bytes(4))
    with pytest.raises(FrameError):
        list(frames.messages())


def test_messages_before_a_bad_length_are_delivered() -> None:
    frames = FrameBuffer()
    frames.feed(encode_frame(b"good") + b"\xff\xff\xff\xff")
    messages = frames.messages()
    assert next(messages) == b"good"
    with pytest.raises(FrameError):
        next(messages)
