"""One token behind the `KeyBackend` port: what callers' threads do."""

from __future__ import annotations

import time
from collections.abc import Sequence

from keyd.backends import refusals
from keyd.backends.calls import Group, Outcome
from keyd.backends.config import TokenConfig
from keyd.backends.queue import QueueStatistics
from keyd.backends.reconcile import to_found
from keyd.backends.state import StateBoard
from keyd.backends.supervisor import Supervisor
from keyd.domain.keys import Key, KeySpec
from keyd.domain.tokens import FoundKey, SignItem, TokenStatus
from keyd.errors import InvalidRequest, KeydError, NotFound
from keyd.ports import Late
from keyd.wire.worker_pb2 import (
    Destroy,
    Failure,
    Find,
    Generate,
    Inventory,
    KeyPair,
    KeyReference,
    Request,
    Response,
    Sign,
)

# Certain to have had no outcome, or harmless to repeat: the same message by the same key.
_AGAIN = (Failure.KIND_TOKEN_FAILED, Failure.KIND_NOT_LOGGED_IN, Failure.KIND_KEY_NOT_FOUND)
_MAX_LABEL_BYTES = 64
_PART = 32


class WorkerToken:
    """A token that a supervised worker drives: `keyd.ports.KeyBackend` and `Destroys`."""

    def __init__(self, config: TokenConfig, board: StateBoard, supervisor: Supervisor) -> None:
        self._config = config
        self._board = board
        self._supervisor = supervisor
        self._queue = supervisor.queue

    @property
    def name(self) -> str:
        return self._config.name

    def status(self) -> TokenStatus:
        return self._board.status

    def statistics(self) -> QueueStatistics:
        """Requests, frames they shared, answers; for metrics."""
        return self._queue.statistics()

    def sign(
        self, items: Sequence[SignItem], timeout_s: float, late: Late | None = None
    ) -> list[bytes | Exception]:
        deadline = time.monotonic() + timeout_s
        outcomes = self._sign(items, deadline, late)
        again = [i for i, outcome in enumerate(outcomes) if _worth_repeating(outcome)]
        if again:
            # By now the token recovers, or its key is known to be gone.
            repeated = self._sign([items[i] for i in again], deadline, late)
            for i, outcome in zip(again, repeated, strict=True):
                outcomes[i] = outcome
        return [self._signature(*each) for each in zip(items, outcomes, strict=True)]

    def generate(self, spec: KeySpec, cka_id: bytes, label: str, timeout_s: float) -> FoundKey:
        if len(label.encode()) > _MAX_LABEL_BYTES:
            raise InvalidRequest(
                "KEY_LABEL_TOO_LONG", f"labels have at most {_MAX_LABEL_BYTES} bytes"
            )
        request = Generate(
            scheme=spec.scheme.value,
            rsa_bits=spec.rsa_bits,
            cka_id=cka_id,
            label=label,
            waive_local=self._config.waive_local,
        )
        limit_s = self._config.generate_timeout_s
        made = self._found(self._one(Request(generate=request), limit_s, timeout_s).key_pair)
        self._supervisor.holdings.seen.add((made.cka_id, made.public_der))
        return made

    def find(self, cka_id: bytes, timeout_s: float) -> FoundKey:
        limit_s = self._config.sign_timeout_s
        answer = self._one(Request(find=Find(cka_id=cka_id)), limit_s, timeout_s)
        if answer.key_pair.duplicates:
            raise refusals.for_failure(self.name, Failure(kind=Failure.KIND_KEY_AMBIGUOUS))
        return self._found(answer.key_pair)

    def inventory(self, timeout_s: float) -> tuple[FoundKey, ...]:
        limit_s = self._config.generate_timeout_s
        answer = self._one(Request(inventory=Inventory()), limit_s, timeout_s)
        self._supervisor.recheck()
        return tuple(map(self._found, answer.key_pairs.pairs))

    def destroy(self, key: Key, timeout_s: float) -> int:
        reference = KeyReference(
            cka_id=key.cka_id, public_der=key.public_der, scheme=key.scheme.value
        )
        limit_s = self._config.generate_timeout_s
        answer = self._one(Request(destroy=Destroy(key=reference)), limit_s, timeout_s)
        self._supervisor.holdings.seen.discard((key.cka_id, key.public_der))
        self._supervisor.recheck()
        return answer.destroyed.objects

    def unlock(self, pin: bytearray | None, timeout_s: float) -> TokenStatus:
        return self._supervisor.unlock(pin, timeout_s)

    def quarantine(self, reason: str) -> None:
        self._supervisor.quarantine(reason)

    def release(self) -> None:
        self._supervisor.release()

    def _sign(self, items: Sequence[SignItem], deadline: float, late: Late | None) -> list[Outcome]:
        unusable = self._supervisor.holdings.unusable
        outcomes: list[Outcome | None] = [None] * len(items)
        asked = []
        for i, item in enumerate(items):
            if problem := unusable.get((item.cka_id, item.public_der)):
                outcomes[i] = NotFound(
                    "KEY_NOT_ON_TOKEN", f"token {self.name} cannot sign by this key: {problem}"
                )
            else:
                asked.append(i)
        for i, outcome in zip(
            asked, self._exchange([items[i] for i in asked], deadline, late), strict=True
        ):
            outcomes[i] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _exchange(
        self, items: Sequence[SignItem], deadline: float, late: Late | None
    ) -> list[Outcome]:
        """Every item's outcome by `deadline`; a refusal of the queue stands for each it hit."""
        parts = [items[i : i + _PART] for i in range(0, len(items), _PART)]
        # All are queued before the first is waited for: the worker signs while we go on.
        submitted = [self._submit(part, deadline, late) for part in parts]
        outcomes: list[Outcome] = []
        for part, group in zip(parts, submitted, strict=True):
            if isinstance(group, KeydError):
                outcomes += [group] * len(part)
                continue
            if not group.wait(deadline - time.monotonic()):
                self._queue.give_up(group)
            outcomes += group.settled()
        return outcomes

    def _submit(
        self, items: Sequence[SignItem], deadline: float, late: Late | None
    ) -> Group | KeydError:
        def tell(place: int, answer: Response) -> None:
            if late is not None and answer.HasField("signed"):
                late(items[place], answer.signed.signature)

        requests = [_sign_request(item) for item in items]
        left_s = deadline - time.monotonic()
        try:
            return self._queue.submit(requests, self._config.sign_timeout_s, left_s, tell)
        except KeydError as error:
            return error

    def _one(self, request: Request, limit_s: float, timeout_s: float) -> Response:
        group = self._queue.submit([request], limit_s, timeout_s)
        if not group.wait(timeout_s):
            self._queue.give_up(group)
        [outcome] = group.settled()
        if isinstance(outcome, KeydError):
            raise outcome
        if outcome.HasField("failure"):
            raise refusals.for_failure(self.name, outcome.failure)
        return outcome

    def _found(self, pair: KeyPair) -> FoundKey:
        return to_found(pair, waive_local=self._config.waive_local)

    def _signature(self, item: SignItem, outcome: Outcome) -> bytes | Exception:
        if isinstance(outcome, KeydError):
            return outcome
        if outcome.HasField("failure"):
            return refusals.for_failure(self.name, outcome.failure)
        self._supervisor.holdings.seen.add((item.cka_id, item.public_der))
        return outcome.signed.signature


def _sign_request(item: SignItem) -> Request:
    reference = KeyReference(
        cka_id=item.cka_id, public_der=item.public_der, scheme=item.scheme.value
    )
    return Request(sign=Sign(key=reference, data=item.data))


def _worth_repeating(outcome: Outcome) -> bool:
    return (
        isinstance(outcome, Response)
        and outcome.HasField("failure")
        and outcome.failure.kind in _AGAIN
    )
