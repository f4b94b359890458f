"""`keyd rotate explain`: two root files, no daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Timestamp

from keyd.cli.main import run
from tests.root_versions import RootVersion, fingerprint, root_bytes

Write = Callable[..., str]
FIRST = RootVersion(keys=(1, 2, 3), threshold=2, signed_by=(1, 2))
SECOND = RootVersion(keys=(2, 3, 4), threshold=2, signed_by=(2, 3))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(version: int, wanted: RootVersion) -> str:
        path = tmp_path / f"{version}.root.json"
        path.write_bytes(root_bytes(version, wanted))
        return str(path)

    return written


def explain(capfd: pytest.CaptureFixture[str], *files: str) -> tuple[int, str, str]:
    code = run(["rotate", "explain", *files])
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def explain_json(capfd: pytest.CaptureFixture[str], *files: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = explain(capfd, *files, "--json")
    return code, json.loads(out)


def test_a_sound_step(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = explain(capfd, write(1, FIRST), write(2, SECOND))
    assert (code, err) == (0, "")
    one, four = fingerprint(1)[:12], fingerprint(4)[:12]
    assert out.startswith(f"root of 1.root.json\n\n  1. sign root 2: root +{four} -{one}\n")
    assert "\nsignatures on root 2:\n     old: 2 of 2 needed: " in out
    assert f"role root: key added: {fingerprint(4)}" in out
    assert "\n     key " not in out, "objects of keys that come or go are told by role"
    assert out.endswith("\na client that holds only root 1 takes root 2\n")


def test_json_tells_the_same(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    code, found = explain_json(capfd, write(1, FIRST), write(2, SECOND))
    assert code == 0
    assert set(found) == {"version", "plan", "change", "signatures", "client"}
    assert found["plan"]["plan"]["change"]["kind"] == "ROOT"
    assert [(one["which"], one["missing"]) for one in found["signatures"]] == [
        ("old", 0),
        ("new", 0),
    ]
    assert found["client"] == {
        "takes": True,
        "words": "a client that holds only root 1 takes root 2",
        "said": "",
    }
    assert any(line.startswith("key ") for line in found["change"]["lines"])


@pytest.mark.parametrize(
    ("signed_by", "missing"), [((2, 4), (1, 0)), ((1, 2), (0, 1)), ((), (2, 2))], ids=str
)
def test_a_signature_too_few(
    write: Write,
    capfd: pytest.CaptureFixture[str],
    signed_by: tuple[int, ...],
    missing: tuple[int, int],
) -> None:
    new = RootVersion(keys=(2, 3, 4), threshold=2, signed_by=signed_by)
    code, found = explain_json(capfd, write(1, FIRST), write(2, new))
    assert code == 1
    assert tuple(one["missing"] for one in found["signatures"]) == missing
    assert found["client"]["takes"] is False
    assert found["client"]["said"].startswith("UnsignedMetadataError: root was signed by ")
    assert found["client"]["words"].endswith("refuses root 2, and gets no updates any more")


def test_a_gap_is_an_objection_and_not_seen(
    write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = explain(capfd, write(1, FIRST), write(3, SECOND))
    assert code == 1
    assert "refused: ROOT_VERSION_GAP: " in err
    assert "a client that holds only root 1 asks for root 2 and does not see this one\n" in out


def test_what_keyd_would_have_refused_though_clients_take_it(
    write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody may sign timestamps any more, and root has no spare key: clients do not mind."""
    none = {"timestamp": ((), 1)}
    new = RootVersion(keys=(1, 2, 3), threshold=3, signed_by=(1, 2, 3), others=none)
    code, out, err = explain(capfd, write(1, FIRST), write(2, new))
    assert code == 1
    assert (
        "refused: NEW_THRESHOLD_UNREACHABLE: timestamp would need 1 signatures and list 0 " in err
    )
    assert "warning: NO_SPARE_KEY: " in err
    assert "a client that holds only root 1 takes root 2\n" in out


def test_a_root_that_no_client_begins_with(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    unsigned = RootVersion(keys=(1, 2, 3), threshold=2)
    code, out, _ = explain(capfd, write(1, unsigned), write(2, SECOND))
    assert code == 1
    assert "no client of today begins with root 1\n     UnsignedMetadataError: " in out


def test_only_roots_are_taken(
    write: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "timestamp.json"
    other.write_bytes(Metadata(Timestamp()).to_bytes())
    code, _, err = explain(capfd, write(1, FIRST), str(other))
    assert code == 2
    assert "timestamp.json is no root" in err
    other.write_bytes(b"{}")
    code, _, err = explain(capfd, str(other), write(1, FIRST))
    assert code == 2
    assert "timestamp.json: FILE_NOT_METADATA" in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning:securesystemslib")
@pytest.mark.parametrize(
    ("version", "taken"), [(2, False), (5, False), *((v, True) for v in range(6, 16))]
)
def test_clients_follow_the_published_history(
    shared_data: Path, capfd: pytest.CaptureFixture[str], version: int, taken: bool
) -> None:
    history = shared_data / "tuf" / "sigstore-root-signing" / "root_history"
    files = [str(history / f"{number}.root.json") for number in (version - 1, version)]
    code, found = explain_json(capfd, *files)
    assert found["client"]["takes"] is taken
    assert code == (not taken)
