"""The queue before a token: grouped, bounded, honest about what was begun."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from keyd.backends.calls import Call, Group
from keyd.backends.flight import Flight
from keyd.backends.queue import RequestQueue
from keyd.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    Exhausted,
    InvalidRequest,
    KeydError,
)
from keyd.wire.frames import FrameBuffer, FrameError
from keyd.wire.worker_pb2 import (
    Failure,
    Generate,
    KeyReference,
    Probe,
    Request,
    Response,
    Sign,
    Signed,
    ToWorker,
)

SCHEME = "ecdsa-sha2-nistp256"


class Wire:
    """In place of a channel: keeps what was sent, and answers when told to."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self._frames = FrameBuffer()
        self.sent: list[list[Request]] = []

    def send(self, frame: bytes) -> None:
        self._frames.feed(frame)
        for message in self._frames.messages():
            self.sent.append(list(ToWorker.FromString(message).requests))

    def sizes(self) -> list[int]:
        return [len(requests) for requests in self.sent]

    def answer(self, requests: Sequence[Request], spent_us: int = 50) -> None:
        signed = Signed(signature=b"signature")
        self._queue.answered(
            [Response(id=each.id, signed=signed, spent_us=spent_us) for each in requests]
        )

    def answer_all(self, spent_us: int = 50) -> None:
        """Answer frame by frame until nothing is under way."""
        answered = 0
        while answered < len(self.sent):
            self.answer(self.sent[answered], spent_us)
            answered += 1


class Rig:
    """A running queue on such a wire."""

    def __init__(self, sessions: int = 1, requests: int = 1000, size: int = 1 << 20) -> None:
        self.troubles: list[str] = []
        self.stops = False
        self.queue = RequestQueue(requests, size, self._troubled)
        self.wire = Wire(self.queue)
        self.attach()
        self.queue.run(sessions)

    def attach(self) -> Wire:
        self.wire = Wire(self.queue)
        self.queue.attach(self.wire)  # type: ignore[arg-type]
        return self.wire

    def _troubled(self, request: Request, failure: Failure) -> bool:
        self.troubles.append(failure.code)
        return self.stops

    def submit(self, count: int, timeout_s: float = 60.0, size: int = 10) -> Group:
        return self.queue.submit([sign(size) for _ in range(count)], 1.0, timeout_s)

    def learnt(self) -> Rig:
        """After the first answer the queue knows how long a signature takes."""
        self.submit(1)
        self.wire.answer_all()
        self.wire.sent.clear()
        return self


def sign(size: int = 10) -> Request:
    reference = KeyReference(cka_id=b"id", public_der=b"der", scheme=SCHEME)
    return Request(sign=Sign(key=reference, data=bytes(size)))


def generate() -> Request:
    return Request(generate=Generate(scheme=SCHEME))


def outcome_of(group: Group, index: int = 0) -> str:
    outcome = group.outcomes[index]
    assert isinstance(outcome, KeydError)
    return f"{outcome.reason} {outcome.details.get('outcome', '')}".strip()


def test_many_requests_leave_in_full_frames() -> None:
    rig = Rig().learnt()
    group = rig.submit(200)
    assert rig.wire.sizes() == [64, 64]
    rig.wire.answer_all()
    assert rig.wire.sizes() == [64, 64, 64, 8]
    assert group.wait(0)
    assert all(isinstance(outcome, Response) for outcome in group.settled())


def test_what_arrives_meanwhile_shares_the_next_frame() -> None:
    rig = Rig().learnt()
    groups = [rig.submit(1) for _ in range(12)]
    assert rig.wire.sizes() == [1, 1]
    rig.wire.answer(rig.wire.sent[0])
    assert rig.wire.sizes() == [1, 1, 10]
    assert [group.wait(0) for group in groups] == [True] + [False] * 11
    rig.wire.answer(rig.wire.sent[2])
    rig.wire.answer(rig.wire.sent[1])
    assert all(group.wait(0) for group in groups)
    statistics = rig.queue.statistics()
    assert (statistics.requests, statistics.frames, statistics.answers) == (13, 4, 13)


def test_of_an_unknown_kind_one_leaves_at_a_time() -> None:
    """A frame of 64 on a token that takes a second each would look hung."""
    rig = Rig()
    rig.submit(5)
    assert rig.wire.sizes() == [1, 1]


def test_slow_signatures_make_small_frames() -> None:
    rig = Rig()
    rig.submit(1)
    rig.wire.answer_all(spent_us=30_000)
    rig.wire.sent.clear()
    rig.submit(10)
    assert rig.wire.sizes() == [3, 3]


def test_large_messages_make_small_frames() -> None:
    rig = Rig(size=64 << 20).learnt()
    rig.submit(4, size=700_000)
    assert rig.wire.sizes() == [1, 1]


def test_a_message_that_no_frame_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Rig(size=64 << 20).submit(1, size=9 << 20)
    assert refused.value.reason == "TOKEN_MESSAGE_TOO_LARGE"


def test_a_full_queue_says_when_to_come_back() -> None:
    for rig in (Rig(requests=10), Rig(size=1000)):
        rig.submit(8)
        with pytest.raises(Exhausted) as refused:
            rig.submit(8, size=500)
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0


def test_what_cannot_be_done_in_time_is_not_queued() -> None:
    rig = Rig()
    rig.submit(1)
    rig.wire.answer_all(spent_us=1_000_000)
    first = rig.submit(3, timeout_s=0.5)
    with pytest.raises(DeadlineExceeded) as refused:
        rig.submit(1, timeout_s=2.0)
    assert refused.value.details["outcome"] == "NOT_STARTED"
    # An empty queue is entered whatever was learnt, or nothing would ever be learnt anew.
    assert not first.wait(0)
    rig.submit(1, timeout_s=60.0)


def test_giving_up_withdraws_the_unsent_and_leaves_the_sent() -> None:
    rig = Rig()
    group = rig.submit(4)
    assert rig.wire.sizes() == [1, 1]
    rig.queue.give_up(group)
    assert group.wait(0)
    sent, unsent = "TOKEN_DEADLINE UNKNOWN_RECORDED", "TOKEN_DEADLINE NOT_STARTED"
    assert [outcome_of(group, i) for i in range(4)] == [sent, sent, unsent, unsent]
    rig.wire.answer_all()
    assert rig.wire.sizes() == [1, 1]
    assert rig.queue.idle()
    assert outcome_of(group) == sent


def test_a_recovery_keeps_what_waits_and_fails_what_was_asked() -> None:
    rig = Rig()
    old = rig.wire
    group = rig.submit(3)
    rig.queue.hold()
    assert rig.queue.detach(old, lambda: BackendUnavailable("GONE", "gone"))  # type: ignore[arg-type]
    assert [group.outcomes[i] is None for i in range(3)] == [False, False, True]
    later = rig.submit(1)
    new = rig.attach()
    assert new.sizes() == []
    rig.queue.run(2)
    new.answer_all()
    assert group.wait(0)
    assert later.wait(0)
    assert isinstance(group.outcomes[2], Response)
    # The end of a worker that was replaced is no news.
    assert not rig.queue.detach(old, lambda: BackendUnavailable("GONE", "gone"))  # type: ignore[arg-type]


def test_a_refusal_fails_what_waits_and_what_comes() -> None:
    rig = Rig()
    group = rig.submit(3)
    rig.queue.refuse(lambda: BackendUnavailable("AWAY", "away"))
    assert outcome_of(group, 2) == "AWAY"
    with pytest.raises(BackendUnavailable):
        rig.submit(1)
    rig.wire.answer_all()
    assert rig.wire.sizes() == [1, 1]
    rig.queue.run(1)
    rig.submit(1)
    assert len(rig.wire.sent) == 3


def test_draining_serves_what_waits() -> None:
    rig = Rig()
    group = rig.submit(5)
    rig.queue.drain(lambda: BackendUnavailable("DRAINING", "stopping"))
    with pytest.raises(BackendUnavailable):
        rig.submit(1)
    assert not rig.queue.wait_idle(time.monotonic() + 0.01)
    rig.wire.answer_all()
    assert group.wait(0)
    assert rig.queue.wait_idle(time.monotonic())


def test_trouble_stops_the_sending_until_it_is_looked_into() -> None:
    rig = Rig().learnt()
    rig.stops = True
    groups = [rig.submit(1) for _ in range(4)]
    failed = Response(id=rig.wire.sent[0][0].id, failure=Failure(code="DeviceError"))
    rig.queue.answered([failed])
    assert rig.troubles == ["DeviceError"]
    assert groups[0].wait(0)
    assert rig.wire.sizes() == [1, 1]
    # What fails for the same reason is no further trouble.
    failed.id = rig.wire.sent[1][0].id
    rig.queue.answered([failed])
    assert rig.troubles == ["DeviceError"]
    rig.queue.run(1)
    assert rig.wire.sizes() == [1, 1, 2]


@pytest.mark.parametrize("number", [0, 77])
def test_an_answer_to_no_question_is_nonsense(number: int) -> None:
    with pytest.raises(FrameError):
        Rig().queue.answered([Response(id=number)])


def test_no_request_waits_behind_a_generation_on_a_single_session() -> None:
    rig = Rig(sessions=1).learnt()
    rig.queue.submit([generate()], 60.0, 60.0)
    rig.submit(2)
    assert [each[0].WhichOneof("kind") for each in rig.wire.sent] == ["generate"]
    rig.wire.answer(rig.wire.sent[0])
    assert rig.wire.sizes() == [1, 2]


def test_slow_and_quick_requests_take_turns_on_a_single_session() -> None:
    """Neither steady signing nor several generations in a row keep the others out."""
    rig = Rig(sessions=1).learnt()
    rig.submit(1)
    rig.submit(1)
    for _ in range(2):
        rig.queue.submit([generate()], 60.0, 60.0)
    for answered in range(10):
        # A client is always there with the next one.
        rig.submit(1)
        rig.wire.answer(rig.wire.sent[answered])
    kinds = [each[0].WhichOneof("kind") for each in rig.wire.sent[:7]]
    assert kinds == ["sign", "sign", "generate", "sign", "generate", "sign", "sign"]


def test_a_slow_request_that_is_withdrawn_holds_nobody_up() -> None:
    rig = Rig(sessions=1).learnt()
    rig.submit(1)
    slow = rig.queue.submit([generate()], 60.0, 60.0)
    rig.submit(1)
    assert rig.wire.sizes() == [1]
    rig.queue.give_up(slow)
    rig.wire.answer_all()
    assert rig.wire.sizes() == [1, 1]
    assert rig.queue.idle()


def test_two_sessions_sign_beside_one_generation_but_not_two() -> None:
    rig = Rig(sessions=2).learnt()
    for _ in range(2):
        rig.queue.submit([generate()], 60.0, 60.0)
    rig.submit(2)
    kinds = [each[0].WhichOneof("kind") for each in rig.wire.sent]
    assert kinds == ["generate", "sign"]


def test_overdue_is_judged_by_each_requests_own_limit() -> None:
    rig = Rig(sessions=2).learnt()
    rig.submit(1)
    now = time.monotonic()
    assert not rig.queue.overdue(now + 0.5)
    assert rig.queue.overdue(now + 1.5)
    rig.queue.submit([generate()], 60.0, 60.0)
    # A token that makes a key may keep everybody waiting.
    assert not rig.queue.overdue(now + 50.0)
    assert rig.queue.overdue(now + 70.0)


def test_requests_behind_others_are_not_overdue_before_their_turn() -> None:
    calls = [Call(sign(), Group(1), 0, 1.0, SCHEME, 0.0, 0, False) for _ in range(3)]
    flight = Flight()
    for call in calls:
        flight.depart([call], 0.0, asked=False)
    # One session: each has a second from when the one before it was answered.
    assert flight.arrive(calls[0].request.id, 0.9) == (calls[0], False)
    assert not flight.overdue(1.8)
    assert flight.arrive(calls[1].request.id, 1.8) == (calls[1], False)
    assert not flight.overdue(2.7)
    assert flight.overdue(2.9)


def test_progress_of_one_thread_does_not_hide_that_another_hangs() -> None:
    calls = [Call(sign(), Group(1), 0, 1.0, SCHEME, 0.0, 0, False) for _ in range(9)]
    flight = Flight()
    flight.sessions = 2
    flight.depart([calls[0]], 0.0, asked=False)
    for step, call in enumerate(calls[1:]):
        flight.depart([call], step * 0.2, asked=False)
        flight.arrive(call.request.id, step * 0.2 + 0.1)
    assert flight.overdue(1.1)


def test_answers_within_a_frame_are_progress() -> None:
    calls = [Call(sign(), Group(1), 0, 1.0, SCHEME, 0.0, 0, False) for _ in range(4)]
    flight = Flight()
    flight.depart(calls, 0.0, asked=False)
    for number, call in enumerate(calls[:3]):
        assert not flight.overdue(number * 0.9)
        flight.arrive(call.request.id, number * 0.9)
    assert flight.overdue(3.0)


def test_the_supervisors_questions_pass_a_held_queue() -> None:
    rig = Rig()
    rig.queue.hold()
    rig.submit(1)

    class Echo(Wire):
        def send(self, frame: bytes) -> None:
            super().send(frame)
            self.answer(self.sent[-1])

    wire = Echo(rig.queue)
    rig.queue.attach(wire)  # type: ignore[arg-type]
    [answer] = rig.queue.ask([Request(probe=Probe())], 1.0)
    assert isinstance(answer, Response)
    assert [each[0].WhichOneof("kind") for each in wire.sent] == ["probe"]


def test_questions_without_a_worker_are_refused_at_once() -> None:
    queue = RequestQueue(10, 1000, lambda request, failure: False)
    with pytest.raises(BackendUnavailable):
        queue.ask([Request(probe=Probe())], 1.0)


def test_a_worker_that_claims_no_sessions_is_served_as_with_one() -> None:
    rig = Rig(sessions=0)
    rig.submit(1)
    rig.submit(1)
    assert rig.wire.sizes() == [1, 1]
