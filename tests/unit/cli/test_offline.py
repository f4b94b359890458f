"""Commands that need no daemon: `keyd config check` and `keyd policy explain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyd.cli.main import run

POLICY = """\
# policy
[[grant]]
name = "ci"
principals = ["uri:spiffe://example.org/ci"]
methods = ["SigningService.SignMetadata", "KeyService.ListKeys"]
repositories = ["demo"]
roles = ["timestamp"]
keys = ["timestamp-1"]
"""
ASK = ["policy", "explain", "--principal", "uri:spiffe://example.org/ci", "--method"]
SIGN = [*ASK, "SigningService.SignMetadata", "--repository", "demo", "--key", "timestamp-1"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration with its policy; returns the configuration's path."""
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "keyd.toml").write_text(
        f'[daemon]\nledger = "{tmp_path}/ledger"\nanchor = "{tmp_path}/anchor"\n'
        f'[policy]\nfile = "{tmp_path}/policy.toml"\n'
        f'[[listen.unix]]\npath = "{tmp_path}/s"\nprincipal = "admin"\n'
    )
    for name in ("policy.toml", "keyd.toml"):
        (tmp_path / name).chmod(0o600)
    return tmp_path / "keyd.toml"


def test_check_says_ok(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "--config", str(config)]) == 0
    assert capfd.readouterr().out == f"{config}: ok\n"
    assert run(["config", "check", "--config", str(config), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"version": 1, "ok": True, "file": str(config)}


def test_check_follows_variable_and_flag(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYD_CONFIG", str(config))
    assert run(["config", "check"]) == 0
    monkeypatch.setenv("KEYD_POLICY_FILE", "/nonexistent")
    assert run(["config", "check"]) == 78
    assert run(["config", "check", "--set", f"policy.file={config.parent}/policy.toml"]) == 0
    capfd.readouterr()


def test_explain_names_the_deciding_line(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy = config.parent / "policy.toml"
    assert run([*SIGN, "--role", "timestamp", "--config", str(config)]) == 0
    expected = f"{policy}:2: allowed: grant 'ci' (line 2) allows it\n"
    assert capfd.readouterr().out == expected
    assert run([*SIGN, "--role", "root", "--policy", str(policy)]) == 77
    words = "grant 'ci' (line 2) comes nearest, but does not name the role 'root'"
    assert capfd.readouterr().out == f"{policy}:2: denied: {words}\n"
    assert run([*ASK, "KeyService.ListKeys", "--policy", str(policy)]) == 0


def test_explain_in_json(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy = str(config.parent / "policy.toml")
    stranger = ["policy", "explain", "--principal", "unix:x", "--method", "KeyService.ListKeys"]
    assert run([*stranger, "--policy", policy, "--json"]) == 77
    document = json.loads(capfd.readouterr().out)
    assert document["version"] == 1
    assert document["allowed"] is False
    assert document["grant"] is None
    assert document["file"] == policy
    assert len(document["revision"]) == 64


def test_explain_asks_for_what_the_method_touches(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*SIGN, "--config", str(config)]) == 2
    assert "add --role" in capfd.readouterr().err
    assert run([*ASK, "SigningService.Sign", "--config", str(config)]) == 2


def test_a_broken_policy_is_told(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (config.parent / "policy.toml").write_text(POLICY.replace("ListKeys", "ListKey"))
    assert run([*SIGN, "--role", "root", "--config", str(config)]) == 78
    assert "unknown method 'KeyService.ListKey'" in capfd.readouterr().err
