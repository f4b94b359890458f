"""The command itself: finding commands, exit codes, what goes where."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from keyd import errors
from keyd.cli import main as cli_main
from keyd.cli import output
from keyd.cli.exits import Exit, exit_code
from keyd.cli.main import COMMANDS, cli, run
from keyd.config.problems import ConfigurationError
from keyd_client import errors as remote

HEAVY = ("grpc", "tuf", "cryptography", "pydantic", "rich", "securesystemslib", "google.protobuf")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom keyd.cli.main import run\n"
        f"code = run(['--help'])\nprint(code, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_listed_help_is_the_commands_own(name: str) -> None:
    with click.Context(cli) as context:
        command = cli.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name].help


def _every_command() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        with click.Context(cli) as context:
            command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", inner) for sub, inner in command.commands.items()]
        else:
            found.append((name, command))
    return found


@pytest.mark.parametrize(("name", "command"), _every_command())
def test_every_command_explains_itself(name: str, command: click.Command) -> None:
    assert command.help, f"keyd {name} has no help text"
    assert "Example" in (command.epilog or ""), f"keyd {name} shows no example"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"keyd {name}: {parameter.name} is not explained"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PolicyViolation("X", "x"), 1),
        (errors.PinRejected("X", "x"), 1),
        (errors.StateCorrupt("X", "x"), 1),
        (errors.BackendUnavailable("X", "x"), 69),
        (errors.Exhausted("X", "x"), 75),
        (errors.DeadlineExceeded("X", "x"), 75),
        (errors.NotAllowed("X", "x"), 77),
        (errors.Unauthenticated("X", "x"), 77),
        (errors.ApprovalRequired("X", "x"), 77),
        (ConfigurationError("x", []), 78),
        (remote.KeydClientError("X", "x"), 1),
        (remote.NotFound("X", "x"), 1),
        (remote.BackendUnavailable("X", "x"), 69),
        (remote.Exhausted("X", "x"), 75),
        (remote.DeadlineExceeded("X", "x"), 75),
        (remote.NotAllowed("X", "x"), 77),
        (remote.Unauthenticated("X", "x"), 77),
        (remote.ApprovalRequired("X", "x"), 77),
        (remote.ProfileError("X", "x"), 78),
    ],
)
def test_exit_codes(error: errors.KeydError | remote.KeydClientError, code: int) -> None:
    assert exit_code(error) == code


def test_usage_is_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["frobnicate"]) == Exit.USAGE
    assert run(["config", "check", "--frob"]) == Exit.USAGE
    assert run(["config", "check", "--set", "daemon.ledger"]) == Exit.USAGE
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "No such command 'frobnicate'" in captured.err
    assert run(["check", "--json", "/nonexistent"]) == Exit.USAGE
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["reason"] == "USAGE"
    assert "/nonexistent" in error["message"]


def test_version_names_daemon_client_and_api(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == Exit.DONE
    words = capfd.readouterr().out.split()
    assert words[::2] == ["keyd", "keyd-client", "api"]
    assert words[-1] == "keyd.v1"


def test_a_failure_is_words_on_stderr_and_json_on_stdout(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["config", "check", "--config", str(tmp_path / "none.toml")]
    assert run(arguments) == Exit.BAD_CONFIG
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "CONFIG_INVALID" in captured.err
    assert run([*arguments, "--json"]) == Exit.BAD_CONFIG
    document = json.loads(capfd.readouterr().out)
    assert document["version"] == 1
    assert document["error"]["reason"] == "CONFIG_INVALID"
    assert document["error"]["findings"][0]["reason"] == "FILE_UNUSABLE"


def test_findings_are_listed_once(capfd: pytest.CaptureFixture[str]) -> None:
    finding = errors.Finding("A7", "VERSION_NOT_INCREASING", "/version", "use version 4")
    output.report(errors.PolicyViolation("RULES", "the rules refuse", findings=[finding]), False)
    captured = capfd.readouterr()
    assert captured.err.splitlines() == [
        "keyd: RULES: the rules refuse",
        "  VERSION_NOT_INCREASING at /version: use version 4",
    ]


def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output.say(click.style("red", fg="red"))
    assert capfd.readouterr().err == "red\n"
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream, color: color is False)
    output.say(click.style("red", fg="red"))
    assert "\x1b[" in capfd.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    output.say(click.style("red", fg="red"))
    assert capfd.readouterr().err == "red\n"


def test_tables_and_facts_align() -> None:
    text = click.unstyle(output.table(("NAME", "STATE"), [("a", "ACTIVE"), ("long", "")]))
    assert text.splitlines() == ["NAME  STATE", "a     ACTIVE", "long  -"]
    assert output.table(("NAME",), []) == ""
    assert output.facts({"name": "k", "token": "hsm", "none": ""}) == "name:  k\ntoken: hsm"


def test_progress_speaks_only_after_a_second(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with output.progress("quick work"):
        pass
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(output, "_PATIENCE_S", 0.0)
    spoken = threading.Event()
    monkeypatch.setattr(output, "say", lambda words: spoken.set() if "slow" in words else None)
    with output.progress("slow work"):
        assert spoken.wait(10)


def test_a_reader_that_leaves_is_no_crash() -> None:
    """`keyd --help | head -0` must not print a traceback."""
    command = f"{sys.executable} -m keyd --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() in {"0", "1"}
    assert "Traceback" not in done.stderr


def test_interrupted_prompt_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def aborts(*_args: object, **_kwargs: object) -> None:
        raise click.Abort

    monkeypatch.setattr(cli_main.cli, "main", aborts)
    assert run(["key", "list"]) == Exit.FAILED
    assert capfd.readouterr().out == ""
    assert run(["key", "list", "--json"]) == Exit.FAILED
    assert json.loads(capfd.readouterr().out)["error"]["reason"] == "ABORTED"


def test_a_file_that_cannot_be_reached_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(cli_main.cli, "main", fails)
    assert run(["key", "list", "--json"]) == Exit.FAILED
    captured = capfd.readouterr()
    assert json.loads(captured.out)["error"]["reason"] == "SYSTEM_ERROR"
    assert "/secret: Permission denied" in captured.err
