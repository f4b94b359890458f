"""Which failed request makes the supervisor look at its token, and which one stops the sending."""

from __future__ import annotations

import pytest

from keyd.backends.news import Recheck, Trouble, news_of
from keyd.wire.worker_pb2 import Failure, Find, Generate, KeyReference, Request, Sign

SIGN = Request(sign=Sign(key=KeyReference(cka_id=b"id", public_der=b"der")))
SEEN = {(b"id", b"der")}
FIND = Request(find=Find())
GENERATE = Request(generate=Generate())


@pytest.mark.parametrize(
    ("request_", "kind", "expected"),
    [
        (SIGN, Failure.KIND_TOKEN_FAILED, Trouble),
        (SIGN, Failure.KIND_NOT_LOGGED_IN, Trouble),
        (SIGN, Failure.KIND_KEY_NOT_FOUND, Trouble),
        (SIGN, Failure.KIND_KEY_AMBIGUOUS, Recheck),
        (SIGN, Failure.KIND_PAIR_BROKEN, Recheck),
        (SIGN, Failure.KIND_NOT_SUPPORTED, None),
        (SIGN, Failure.KIND_INVALID, None),
        (FIND, Failure.KIND_TOKEN_FAILED, Trouble),
        (FIND, Failure.KIND_KEY_NOT_FOUND, None),
        (GENERATE, Failure.KIND_TOKEN_FAILED, Recheck),
        (GENERATE, Failure.KIND_ATTRIBUTES_REFUSED, Recheck),
    ],
)
def test_failures(
    request_: Request, kind: Failure.Kind.ValueType, expected: type[object] | None
) -> None:
    news = news_of(request_, Failure(kind=kind, code="code"), SEEN)
    assert news is None if expected is None else isinstance(news, expected)


def test_a_key_that_the_token_never_had_says_little() -> None:
    failure = Failure(kind=Failure.KIND_KEY_NOT_FOUND)
    assert news_of(SIGN, failure, set()) == Recheck()
