"""Every input that was ever worth keeping, and a few thousand made of them, against every parser.

Fuzzing proper is ``make fuzz`` (docs/howto/fuzzing.md); its findings come to rest in the corpus.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from keyd.config.load import load_settings
from keyd.config.settings import Settings
from keyd.domain.keys import Scheme
from keyd.domain.payload import Payload
from keyd.domain.rules import Judgement
from keyd.domain.token_uri import TokenUri
from keyd.ledger.verification.report import Report
from keyd.wire.worker_pb2 import KeyPair
from tests.fuzz import targets
from tests.fuzz.__main__ import figures
from tests.fuzz.bending import bent_inputs, words_of

CORPUS = [path for name in targets.NAMES for path in sorted((targets.CORPUS / name).iterdir())]
_BUDGET_BYTES = 200_000
_INPUT_BYTES = 10_000


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_kept_inputs(path: Path) -> None:
    targets.load(path.parent.name).check(path.read_bytes())


@pytest.mark.parametrize("name", targets.NAMES)
def test_inputs_made_of_them(name: str) -> None:
    target = targets.load(name)
    for number, data in enumerate(bent_inputs(target, 500, name)):
        try:
            target.check(data)
        except BaseException as error:
            error.add_note(f"input {number} of {name}: {data!r}")
            raise


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    assert {path.name for path in targets.CORPUS.iterdir()} == set(targets.NAMES)
    sizes = [path.stat().st_size for path in CORPUS]
    assert sum(sizes) < _BUDGET_BYTES
    assert max(sizes) <= _INPUT_BYTES


@pytest.mark.parametrize("dictionary", sorted(targets.DICTIONARIES.iterdir()), ids=lambda d: d.stem)
def test_dictionaries_are_well_formed_and_used(dictionary: Path) -> None:
    assert len(words_of(dictionary)) > 10
    assert dictionary in {targets.load(name).dictionary for name in targets.NAMES}


def lenient(raw: bytes, **_: object) -> Payload:
    return Payload(raw, json.loads(raw, strict=False))


def believing(pair: KeyPair) -> object:
    return Scheme(pair.scheme)


def deaf(path: Path, environment: object, flags: dict[str, str]) -> Settings:
    return load_settings(path, {}, flags)


# A parser with a fault that it once had, or that others have: its target must notice.
FAULTS: list[tuple[str, str, Any]] = [
    ("payload", "parse", lenient),
    ("payload", "judge", lambda question, about: Judgement(())),
    ("metadata_file", "facts_of", lambda content: None),
    ("opaque", "looks_like_tuf", lambda data: b'"_type":"' in data),
    ("policy", "may_call", lambda policy, caller, method: True),
    ("token_uri", "parse_token_uri", lambda text: TokenUri(text.rpartition("=")[2])),
    ("frames", "to_found", believing),
    ("settings", "load_settings", deaf),
    ("exported_log", "verify_export", lambda directory, key: Report()),
]


@pytest.mark.parametrize(("name", "function", "fault"), FAULTS)
def test_targets_notice_faults(
    monkeypatch: pytest.MonkeyPatch, name: str, function: str, fault: Any
) -> None:
    target = targets.load(name)
    kept = [path.read_bytes() for path in sorted(target.corpus.iterdir())]
    monkeypatch.setattr(f"tests.fuzz.targets.{name}.{function}", fault)
    with pytest.raises((AssertionError, ValueError)):
        deque(map(target.check, kept), maxlen=0)


def test_libfuzzers_figures_are_read() -> None:
    log = (
        "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 31Mb\n"
        "#4096\tpulse  cov: 120 ft: 456 corp: 17/890b lim: 4096 exec/s: 2048 rss: 62Mb\n"
        "stat::number_of_executed_units: 5000\n"
    )
    assert figures(log) == (5000, 120, 456)
    assert figures("") == (0, 0, 0)
