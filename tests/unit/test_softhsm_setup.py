"""softhsm-setup/init.sh and keyd.worker.init_token against the real SoftHSM."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.softhsm import SoftHSMToken, write_secret

INIT_SH = Path(__file__).resolve().parents[2] / "softhsm-setup" / "init.sh"

# A program of its own, because SoftHSM reads SOFTHSM2_CONF once per process.
LOGIN_AND_SIGN = """
import sys, pkcs11
pin = open(sys.argv[3]).read().strip()
with pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(user_pin=pin, rw=True) as s:
    key = s.generate_keypair(pkcs11.KeyType.RSA, 2048)[1]
    print(len(key.sign(b"data", mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS)))
"""

# What a crash between C_InitToken and C_InitPIN leaves.
HALF_INITIALISE = """
import sys, pathlib, pkcs11
from keyd.worker import init_token
slot = init_token._free_slot(pkcs11.lib(sys.argv[1]))
init_token._init_token(pathlib.Path(sys.argv[1]), slot, "half", open(sys.argv[2]).read().strip())
"""


def run(*command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def init_token(
    token: SoftHSMToken, label: str, pin: Path, so_pin: Path
) -> subprocess.CompletedProcess[str]:
    module = [sys.executable, "-m", "keyd.worker.init_token"]
    options = ["--label", label, "--pin-file", pin, "--so-pin-file", so_pin]
    return run(*module, *options, env=dict(token.env))


def printed_fields(output: str) -> dict[str, str]:
    comments = [line[2:] for line in output.splitlines() if line.startswith("# ")]
    return {name: value.strip() for name, value in (line.split(":", 1) for line in comments)}


def exported_conf(output: str) -> dict[str, str]:
    (line,) = [line for line in output.splitlines() if line.startswith("export ")]
    name, _, value = shlex.split(line)[1].partition("=")
    return {name: value}


def test_script_makes_a_usable_token_and_leaves_it_alone_afterwards(tmp_path: Path) -> None:
    first = run(INIT_SH, "--dir", tmp_path / "t", "--label", "root 1")
    second = run(INIT_SH, "--dir", tmp_path / "t", "--label", "root 1")

    assert (first.returncode, first.stderr) == (0, "")
    assert second.stdout == first.stdout
    fields = printed_fields(first.stdout)
    assert fields["token"].startswith("pkcs11:token=root%201;serial=")
    env = exported_conf(first.stdout)
    arguments = (fields["module"], "root 1", fields["PIN file"])
    used = run(sys.executable, "-c", LOGIN_AND_SIGN, *arguments, env=env)
    assert (used.returncode, used.stdout) == (0, "256\n"), used.stderr


def test_script_keeps_everything_private(tmp_path: Path) -> None:
    assert run(INIT_SH, "--dir", tmp_path / "t").returncode == 0
    for path in [tmp_path / "t", *(tmp_path / "t").rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_script_takes_a_pin_of_ones_own(tmp_path: Path) -> None:
    pin_file = write_secret(tmp_path / "mine", "correct horse")
    made = run(INIT_SH, "--dir", tmp_path / "t", "--pin-file", pin_file)
    fields = printed_fields(made.stdout)
    arguments = (fields["module"], "keyd", pin_file)
    used = run(sys.executable, "-c", LOGIN_AND_SIGN, *arguments, env=exported_conf(made.stdout))
    assert used.returncode == 0, used.stderr
    assert not (tmp_path / "t" / "pin").exists()


@pytest.mark.parametrize("arguments", [[], ["--dir"], ["--directory", "x"]])
def test_script_refuses_wrong_usage(arguments: list[str]) -> None:
    assert run(INIT_SH, *arguments).returncode == 2


def test_tokens_of_a_test_do_not_see_each_other(
    new_softhsm: Callable[[str], SoftHSMToken],
) -> None:
    one, two = new_softhsm("one"), new_softhsm("two")
    assert one.serial != two.serial
    arguments = (one.module, "two", two.pin_file)
    used = run(sys.executable, "-c", LOGIN_AND_SIGN, *arguments, env=dict(one.env))
    assert "NoSuchToken" in used.stderr


def test_existing_label_is_not_initialised_again(softhsm: SoftHSMToken, tmp_path: Path) -> None:
    other_pin = write_secret(tmp_path / "other", "another-pin")
    again = init_token(softhsm, softhsm.label, other_pin, other_pin)
    made = json.loads(again.stdout)
    assert (made["created"], made["serial"]) == (False, softhsm.serial)
    arguments = (softhsm.module, softhsm.label, softhsm.pin_file)
    used = run(sys.executable, "-c", LOGIN_AND_SIGN, *arguments, env=dict(softhsm.env))
    assert used.returncode == 0, used.stderr


def test_second_label_gets_a_token_of_its_own(softhsm: SoftHSMToken) -> None:
    made = init_token(softhsm, "second", softhsm.pin_file, softhsm.so_pin_file)
    assert json.loads(made.stdout)["created"] is True


def test_half_made_token_is_finished(softhsm: SoftHSMToken) -> None:
    arguments = (softhsm.module, softhsm.so_pin_file)
    half = run(sys.executable, "-c", HALF_INITIALISE, *arguments, env=dict(softhsm.env))
    assert half.returncode == 0, half.stderr
    made = init_token(softhsm, "half", softhsm.pin_file, softhsm.so_pin_file)
    assert json.loads(made.stdout)["created"] is False
    login = (softhsm.module, "half", softhsm.pin_file)
    used = run(sys.executable, "-c", LOGIN_AND_SIGN, *login, env=dict(softhsm.env))
    assert used.returncode == 0, used.stderr


@pytest.mark.parametrize(
    ("label", "pin", "says"),
    [
        ("x" * 33, "1234", "32 bytes"),
        (" ", "1234", "32 bytes"),
        ("fresh", "", "is empty"),
        ("fresh", "123", "C_InitToken failed"),  # SoftHSM wants at least four characters
    ],
)
def test_bad_input_is_refused_with_advice(
    softhsm: SoftHSMToken, tmp_path: Path, label: str, pin: str, says: str
) -> None:
    pin_file = write_secret(tmp_path / "bad", pin)
    refused = init_token(softhsm, label, pin_file, pin_file)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert says in refused.stderr


def test_missing_pin_file_is_named(softhsm: SoftHSMToken, tmp_path: Path) -> None:
    refused = init_token(softhsm, "fresh", tmp_path / "absent", softhsm.so_pin_file)
    assert refused.returncode == 1
    assert str(tmp_path / "absent") in refused.stderr
