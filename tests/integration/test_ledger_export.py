"""Exports: verifiable with nothing but the log's key, and useless to who would bend them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.checkpoint import LogKey, parse_checkpoint
from keyd.errors import AlreadyExists, NotFound, PolicyViolation
from keyd.ledger.verification.export import export_log
from keyd.ledger.verification.exported import verify_export
from tests.ledgers import Home, furnished
from tests.used_ledger import use


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LogKey]:
    base = tmp_path_factory.mktemp("used")
    key = use(base)
    export_log(Home(base).state, base / "export")
    return base, key


@pytest.fixture
def export(used: tuple[Path, LogKey], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(used[0] / "export", tmp_path / "export"))


def test_an_export_verifies_with_the_log_key_alone(used: tuple[Path, LogKey], export: Path) -> None:
    report = verify_export(export, used[1])
    assert report.flaws == []
    assert report.signatures > 15
    assert report.unverified == 0
    assert report.log_size == parse_checkpoint((export / "checkpoint.txt").read_text()).size


def test_the_export_ends_at_the_checkpoint(used: tuple[Path, LogKey], export: Path) -> None:
    ledger = Home(used[0]).open()
    lines = (export / "entries.jsonl").read_bytes().splitlines()
    assert ledger.unsigned_checkpoint().size > len(lines)
    ledger.close()


OTHER_MEANS = r"""
import base64, hashlib, sys

def mth(leaves):
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()

print(base64.b64encode(mth(open(sys.argv[1], "rb").read().split(b"\n")[:-1])).decode())
"""


def test_the_tree_can_be_computed_by_other_means(export: Path) -> None:
    """RFC 6962's definition, on the lines of the file, by a program that knows nothing of keyd."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", OTHER_MEANS, str(export / "entries.jsonl")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (export / "checkpoint.txt").read_text().splitlines()[2]


def test_without_payloads_the_story_is_still_checked(
    used: tuple[Path, LogKey], tmp_path: Path
) -> None:
    base, key = used
    made = export_log(Home(base).state, tmp_path / "e", payloads=False)
    assert made.payloads == 0
    report = verify_export(tmp_path / "e", key, payloads=False)
    assert report.flaws == []
    assert report.unverified == report.signatures > 15


def test_an_export_that_lost_its_payloads_is_not_sound(
    used: tuple[Path, LogKey], export: Path
) -> None:
    """It was: not one signature was verified, and nothing said so."""
    (export / "payloads.jsonl").write_bytes(b"")
    report = verify_export(export, used[1])
    assert report.flaw_count == report.signatures
    assert {flaw.what for flaw in report.flaws} == {"its payload was not exported"}


@pytest.mark.parametrize("name", ["entries.jsonl", "payloads.jsonl", "checkpoint.txt"])
def test_any_edit_is_found(used: tuple[Path, LogKey], export: Path, name: str) -> None:
    chosen = random.Random(5)
    path = export / name
    original = path.read_bytes()
    missed = []
    for _ in range(60):
        place = chosen.randrange(len(original))
        path.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        if verify_export(export, used[1]).sound:
            missed.append(original[max(0, place - 40) : place + 1])
    assert missed == []


def entries_of(export: Path, event: str) -> list[dict[str, Any]]:
    lines = (export / "entries.jsonl").read_bytes().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


@pytest.mark.parametrize("number", [0, 5, -1])
def test_missing_entries_are_found(used: tuple[Path, LogKey], export: Path, number: int) -> None:
    path = export / "entries.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number]
    path.write_bytes(b"".join(lines))
    assert "checkpoint" in {flaw.where for flaw in verify_export(export, used[1]).flaws}


def test_missing_payloads_are_found(used: tuple[Path, LogKey], export: Path) -> None:
    signed = entries_of(export, "signature_completed")[3]
    path = export / "payloads.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(ln for ln in lines if signed["payload_sha256"].encode() not in ln))
    flaws = verify_export(export, used[1]).flaws
    assert f"entry {signed['index']}: its payload was not exported" in map(str, flaws)


def test_other_public_keys_are_found(used: tuple[Path, LogKey], export: Path) -> None:
    signed = entries_of(export, "signature_completed")[3]
    path = export / "keys.jsonl"
    keys = [json.loads(line) for line in path.read_bytes().splitlines()]
    other = next(key for key in keys if key["name"] != signed["key"])
    for key in keys:
        if key["name"] == signed["key"]:
            key["public"] = other["public"]
    path.write_text("".join(json.dumps(key) + "\n" for key in keys))
    flaws = verify_export(export, used[1]).flaws
    assert f"entry {signed['index']}: the signature does not verify" in map(str, flaws)


def test_the_key_of_a_signature_must_be_exported(used: tuple[Path, LogKey], export: Path) -> None:
    (export / "keys.jsonl").write_bytes(b"")
    whats = {flaw.what for flaw in verify_export(export, used[1]).flaws}
    assert whats == {"the signature does not verify"}


def test_two_payloads_for_one_version_are_found_even_if_signed(
    export: Path, used: tuple[Path, LogKey]
) -> None:
    """A log key in the wrong hands can sign a story; it cannot make it one that holds."""
    lines = (export / "entries.jsonl").read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    victim = next(e for e in entries if e["event"] == "signature_completed")
    twin = {**victim, "payload_sha256": hashlib.sha256(b"other").hexdigest()}
    lines[victim["index"]] = json.dumps(twin).encode()
    (export / "entries.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    whats = [flaw.what for flaw in verify_export(export, used[1]).flaws]
    assert any("has two payloads" in what for what in whats)
    assert any("its announcement differs in payload_sha256" in what for what in whats)


def test_another_log_key_is_refused(export: Path, used: tuple[Path, LogKey]) -> None:
    name = used[1].name.removesuffix("Z") + "Y"
    report = verify_export(export, LogKey(name, used[1].public_der))
    assert {flaw.where for flaw in report.flaws} == {"checkpoint"}


def test_missing_and_existing_places_are_named(used: tuple[Path, LogKey], tmp_path: Path) -> None:
    base, key = used
    with pytest.raises(NotFound, match="LEDGER_MISSING"):
        export_log(tmp_path, tmp_path / "x")
    with pytest.raises(AlreadyExists, match="EXPORT_EXISTS"):
        export_log(Home(base).state, tmp_path)
    with pytest.raises(NotFound, match="EXPORT_INCOMPLETE"):
        verify_export(tmp_path, key)


def test_a_log_without_checkpoint_is_not_exported(tmp_path: Path) -> None:
    furnished(tmp_path).close()
    with pytest.raises(PolicyViolation, match="CHECKPOINT_MISSING"):
        export_log(Home(tmp_path).state, tmp_path / "e")


def test_uploaded_signatures_are_verified_and_counted(
    used: tuple[Path, LogKey], export: Path
) -> None:
    uploaded = entries_of(export, "signature_uploaded")
    assert uploaded
    made = entries_of(export, "signature_completed")
    assert verify_export(export, used[1]).signatures == len(made) + len(uploaded)
    path = export / "entries.jsonl"
    lines = path.read_bytes().splitlines()
    place = uploaded[0]["index"]
    lines[place] = json.dumps({**uploaded[0], "signature": "00" * 64}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    flaws = [str(flaw) for flaw in verify_export(export, used[1]).flaws]
    assert f"entry {place}: the signature does not verify" in flaws
    lines[place] = json.dumps({**uploaded[0], "key_sha256": "0" * 64}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert verify_export(export, used[1]).unverified == 1
