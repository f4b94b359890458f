"""The payload parser: a typed refusal or the very bytes, and what passes works for TUF clients.

What python-tuf would refuse, or would write differently and so never verify, the rules must refuse
beyond appeal (`malformed`), whatever the recorded state.
"""

from __future__ import annotations

import json
from typing import Any

from securesystemslib.formats import encode_canonical
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from keyd.domain.payload import Payload, parse
from keyd.domain.rules import judge
from keyd.domain.trust import Question, RepositoryView
from keyd.errors import Finding, InvalidRequest
from tests.fuzz import json_mutator
from tests.fuzz.targets import outcome
from tests.unit.rules.world import NOW, bootstrap_view, delegating, delegation, payload, view

DICTIONARY = "json.dict"
MAX_BYTES = 100_000
_DELEGATOR = payload(delegating(1, delegation("team", "d1", paths=["team/*"])))
_VIEWS: dict[str, tuple[RepositoryView, ...]] = {
    "root": (bootstrap_view(), view("root", high_water=1)),
    "targets": (view("targets"), view("team", delegators=(("targets", _DELEGATOR),))),
    "snapshot": (view("snapshot", imported=True),),
    "timestamp": (view("timestamp", development=True),),
}

mutate = json_mutator.mutate


def check(data: bytes) -> None:
    parsed = outcome(InvalidRequest, parse, data, max_bytes=MAX_BYTES, extra_members=("owner",))
    if isinstance(parsed, InvalidRequest):
        check_refusal(parsed)
        return
    assert parsed.raw == data
    check_canonical(parsed)
    check_for_clients(parsed)


def check_canonical(parsed: Payload) -> None:
    """The bytes are what securesystemslib writes."""
    assert (encode_canonical(dict(parsed.signed)) or "").encode() == parsed.raw


def check_refusal(refused: InvalidRequest) -> None:
    """Findings can travel and be shown, and agree with the reason."""
    assert refused.findings[0].reason == refused.reason
    assert len(refused.findings) <= 50
    for finding in refused.findings:
        assert finding.malformed
        assert finding.message.isprintable()
        finding.pointer.encode()


def check_for_clients(parsed: Payload) -> None:
    """The rules say something unappealable wherever python-tuf would stumble."""
    findings = [judge(Question(parsed, NOW), about).findings for about in views(parsed)]
    stumbles = stumbles_of(parsed)
    for found in findings:
        assert not stumbles or any(map(_is_final, found)), stumbles


def views(parsed: Payload) -> tuple[RepositoryView, ...]:
    """Recorded states that this payload may meet."""
    return _VIEWS[parsed.signed["_type"]]


def stumbles_of(parsed: Payload) -> str:
    """Why a python-tuf client could not use the payload; "" if it could."""
    envelope = {"signatures": [], "signed": parsed.signed}
    read = outcome(RepositoryError, python_tuf, json.dumps(envelope).encode())
    if isinstance(read, RepositoryError):
        return f"python-tuf refuses it: {read!r} from {read.__cause__!r}"
    return "" if read.signed_bytes == parsed.raw else "python-tuf would verify other bytes"


def python_tuf(content: bytes) -> Metadata[Any]:
    """The stock client's reader. Raises: RepositoryError."""
    return Metadata.from_bytes(content)


def _is_final(finding: Finding) -> bool:
    return finding.malformed or finding.reason == "EXPIRED"
