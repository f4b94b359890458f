"""What others say, daemons and statement files, does nothing to a terminal but print."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
import pytest
from click.testing import CliRunner

from keyd.cli import output
from keyd.cli.approve import approve
from keyd.cli.case import encode
from keyd.cli.exits import Exit
from keyd.cli.main import run
from keyd_protos.v1 import audit_pb2, keys_pb2, signing_pb2
from keyd_protos.v1.keys_pb2 import Key
from tests.unit.cli.desk import Desk
from tests.unit.domain.payloads import document
from tests.unit.sdk.scripted_daemon import Refusal, ScriptedDaemon

ESCAPE = "\x1b[12A\x1b[J\x9b\u202e"
RAW = {"\x1b", "\x9b", "\u202e"}
SHOWN = r"\x1b[12A\x1b[J\x9b\u202e"


@pytest.fixture
def daemon(
    socket_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedDaemon]:
    """The daemon of the default profile; a terminal is what everything is printed on."""
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    monkeypatch.setenv("KEYD_PROFILE_DIR", str(tmp_path))
    (tmp_path / "default.toml").write_text(f'target = "unix:{socket_dir}/keyd.sock"\n')
    with ScriptedDaemon(socket_dir / "keyd.sock") as daemon:
        yield daemon


def printed(capfd: pytest.CaptureFixture[str]) -> str:
    """Both streams, without the two colours that keyd itself gives."""
    captured = capfd.readouterr()
    text = captured.out + captured.err
    for own in ("\x1b[1m", "\x1b[31m", "\x1b[0m"):
        text = text.replace(own, "")
    return text


def test_an_officer_whom_a_statement_file_names(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (tmp_path / "case.json").write_bytes(encode(desk.signing(2, trusted=1), f"alice{ESCAPE}"))
    options = ["--statement", tmp_path / "case.json", "--key", "file:none", "--out", desk.out]
    result = CliRunner().invoke(approve, [*map(str, options)], color=True)
    assert f"approved by alice{SHOWN}." in result.stderr
    assert not RAW & set(result.stderr)


def test_an_error_and_its_findings(
    daemon: ScriptedDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> object:
        raise Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            "RULES",
            f"no{ESCAPE}",
            violations=(("A7", f"OTHER{ESCAPE}", f"/{ESCAPE}"),),
        )

    daemon.answers["GetKey"] = refuse
    assert run(["key", "show", "root-1"]) == Exit.FAILED
    text = printed(capfd)
    assert f"keyd: RULES: no{SHOWN}" in text
    assert f"  OTHER{SHOWN} at /{SHOWN}" in text
    assert not RAW & set(text)


def test_what_a_check_finds(
    daemon: ScriptedDaemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finding = signing_pb2.Finding(reason="A7", message=f"worse{ESCAPE}")
    daemon.answers["CheckMetadata"] = lambda request: signing_pb2.CheckMetadataResponse(
        repository=f"demo{ESCAPE}",
        findings=[finding],
        change=[f"one{ESCAPE}", "two\nverdict: would be signed"],
        payload_sha256=hashlib.sha256(request.metadata.payload).digest(),
    )
    (tmp_path / "root.json").write_text(json.dumps({"signed": document("root"), "signatures": []}))
    run(["check", str(tmp_path / "root.json")])
    text = printed(capfd)
    for line in (f"worse{SHOWN}", f"demo{SHOWN}", f"one{SHOWN}", r"two\nverdict"):
        assert line in text
    assert not RAW & set(text)


def test_lists_and_single_things(daemon: ScriptedDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    entry = {"index": 0, "time": "2026", "event": ESCAPE, "principal": "p", "note": ESCAPE}
    listed = audit_pb2.LogEntry(data=json.dumps(entry).encode())
    daemon.answers |= {
        "ListEntries": lambda _: audit_pb2.ListEntriesResponse(entries=[listed], size=1),
        "GetKey": lambda _: keys_pb2.GetKeyResponse(
            key=Key(name="root-1", token=ESCAPE, tuf_key_json="{}")
        ),
    }
    assert run(["audit", "list"]) == Exit.DONE
    assert run(["key", "show", "root-1"]) == Exit.DONE
    text = printed(capfd)
    assert f"note={SHOWN}" in text
    assert f"token:   {SHOWN}" in text
    assert not RAW & set(text)


def test_several_values_stand_below_each_other() -> None:
    assert output.facts({"a": ("one", "two\n"), "long": "x", "none": ()}) == (
        "a:    one\n      two\\n\nlong: x"
    )


def test_a_column_without_a_name_has_an_empty_heading() -> None:
    lines = click.unstyle(output.table(("STEP", "", "WHAT"), [(1, "done", "sign"), (2, "", "")]))
    assert lines.split("\n") == ["STEP        WHAT", "1     done  sign", "2     -     -"]
