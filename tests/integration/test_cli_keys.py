"""`keyd key` and `keyd token` against a running daemon: data, exit codes, refusals."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from securesystemslib.signer import Key

from tests.dev_site import DevSite
from tests.running import KEYD, clean_environment

# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "more"),
    [
        ("ecdsa-sha2-nistp256", []),
        ("ed25519", []),
        ("rsassa-pss-sha256", ["--rsa-bits", "2048"]),
    ],
)
def test_create_show_and_list(dev_site: DevSite, scheme: str, more: list[str]) -> None:
    name = f"made-{scheme[:5]}"
    made = dev_site.json("key", "create", name, "--token", "softhsm", "--scheme", scheme, *more)[
        "key"
    ]
    assert made["name"] == name
    assert made["scheme"] == scheme
    assert made["token"] == "softhsm"
    assert made["content"] == "TUF"
    assert made["state"] == "PRE_ACTIVE"
    assert dev_site.json("key", "show", name)["key"] == made
    assert made in dev_site.json("key", "list")["keys"]
    assert dev_site.keyd("key", "show", name, "--pem").out == made["public_key_pem"]
    tuf_key = json.loads(dev_site.keyd("key", "show", name, "--tuf").out)
    assert tuf_key == made["tuf_key"]
    Key.from_dict(made["tuf_keyid"], tuf_key)
    assert f"TUF key id: {made['tuf_keyid']}" in dev_site.keyd("key", "show", name).out
    again = dev_site.keyd("key", "create", name, "--token", "softhsm")
    assert again.code == 1
    assert again.out == ""


def test_a_state_changes_and_what_cannot_be_undone_asks_for_the_name(dev_site: DevSite) -> None:
    dev_site.json("key", "create", "doomed", "--token", "softhsm")
    refused = dev_site.keyd("key", "compromise", "doomed")
    assert refused.code == 2
    assert "--confirm doomed" in refused.err
    refused = dev_site.keyd("key", "compromise", "doomed", "--confirm", "other")
    assert refused.code == 2
    assert "nothing was done" in refused.err
    assert dev_site.json("key", "show", "doomed")["key"]["state"] == "PRE_ACTIVE"
    marked = dev_site.json(
        "key", "compromise", "doomed", "--confirm", "doomed", "--comment", "stolen"
    )
    assert marked["key"]["state"] == "COMPROMISED"
    entry = dev_site.json("audit", "list", "--limit", "1")["entries"][0]
    assert entry["event"] == "key_state_changed"
    assert entry["comment"] == "stolen"

    dev_site.json("key", "create", "retired", "--token", "softhsm")
    assert dev_site.keyd("key", "suspend", "retired").code == 1  # it was never active
    assert dev_site.keyd("key", "resume", "retired").code == 1
    retired = dev_site.json("key", "deactivate", "retired", "--confirm", "retired")["key"]
    assert retired["state"] == "DEACTIVATED"


def test_the_name_is_asked_for_on_a_terminal(dev_site: DevSite) -> None:
    dev_site.json("key", "create", "asked", "--token", "softhsm")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*KEYD, "key", "deactivate", "asked", "--json"],
        env=clean_environment(dev_site.environment),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b"asked\n")
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert json.loads(out)["key"]["state"] == "DEACTIVATED"


def test_adopt_a_key_that_an_operator_made(dev_site: DevSite) -> None:
    """Made with the PKCS#11 library itself, in a process of its own."""
    script = """
import sys, pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
lib = pkcs11.lib(sys.argv[1])
token = lib.get_token(token_label="keyd-dev")
with token.open(rw=True, user_pin=open(sys.argv[2]).read().strip()) as session:
    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC,
        {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
        local=True,
    )
    parameters.generate_keypair(
        id=bytes.fromhex("c0ffee"), label="by-hand", store=True,
        private_template={
            pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False,
            pkcs11.Attribute.SIGN: True, pkcs11.Attribute.DECRYPT: False,
        },
    )
"""
    softhsm = dev_site.folder / "softhsm"
    module = _module(dev_site)
    subprocess.run(
        [sys.executable, "-c", script, module, str(softhsm / "pin")],
        env=os.environ | {"SOFTHSM2_CONF": str(softhsm / "softhsm2.conf")},
        check=True,
        timeout=60,
    )
    found = [
        one
        for one in dev_site.json("token", "keys", "softhsm")["keys"]
        if one["cka_id"] == "c0ffee"
    ]
    assert len(found) == 1, found
    assert found[0]["registered_as"] == ""
    adopt = ["key", "adopt", "by-hand", "--token", "softhsm", "--id", "c0ffee"]
    wrong = dev_site.keyd(*adopt, "--key-sha256", "00" * 32)
    assert wrong.code == 1
    adopted = dev_site.json(*adopt, "--key-sha256", found[0]["key_sha256"])["key"]
    assert adopted["adopted"] is True
    assert adopted["key_sha256"] == found[0]["key_sha256"]
    assert dev_site.keyd("key", "adopt", "none", "--token", "softhsm", "--id", "beef").code == 1
    assert dev_site.keyd("key", "adopt", "none", "--token", "softhsm", "--id", "xyz").code == 2


def _module(dev_site: DevSite) -> str:
    import tomllib

    settings = tomllib.loads((dev_site.folder / "keyd.toml").read_text())
    module: str = settings["token"][0]["module"]
    return module


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens(dev_site: DevSite) -> None:
    (listed,) = dev_site.json("token", "list")["tokens"]
    assert (listed["name"], listed["state"]) == ("softhsm", "ONLINE")
    text = dev_site.keyd("token", "list").out
    assert text.splitlines()[0].split() == ["NAME", "STATE", "SERIAL", "LABEL", "MODEL", "DETAIL"]
    watched = dev_site.keyd("token", "watch", "--for", "0.5", "--json")
    assert watched.code == 0
    events = [json.loads(line) for line in watched.out.splitlines()]
    assert events[0]["event"]["token"]["name"] == "softhsm"
    assert events[0]["version"] == 1


def test_unlocking_by_file_descriptor_and_prompt(dev_site: DevSite, tmp_path: Path) -> None:
    pin_file = dev_site.folder / "softhsm" / "pin"
    unlocked = dev_site.json("token", "unlock", "softhsm", "--pin-file", pin_file)["token"]
    assert unlocked["state"] == "ONLINE"
    wrong = tmp_path / "wrong"
    wrong.write_text("not the PIN\n")
    for file in (pin_file, wrong):
        told = dev_site.json("token", "unlock", "softhsm", "--pin-file", file)["token"]
        assert told["detail"] == "logged in already: no PIN was tried"
    assert dev_site.json("token", "list")["tokens"][0]["detail"] == ""
    unasked = dev_site.keyd("token", "unlock", "softhsm")
    assert (unasked.code, "there is no terminal" in unasked.err) == (2, True)
    both = dev_site.keyd("token", "unlock", "softhsm", "--pin-file", pin_file, "--retry-configured")
    assert both.code == 2
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert dev_site.keyd("token", "unlock", "softhsm", "--pin-file", empty).code == 2
    assert dev_site.keyd("token", "unlock", "softhsm", "--pin-file", tmp_path / "none").code == 2
    with pin_file.open("rb") as opened:
        done = subprocess.run(
            [*KEYD, "token", "unlock", "softhsm", "--pin-fd", str(opened.fileno()), "--json"],
            env=clean_environment(dev_site.environment),
            pass_fds=[opened.fileno()],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert _prompted_unlock(dev_site, pin_file.read_text().strip()) == 0


def _prompted_unlock(dev_site: DevSite, pin: str) -> int:
    """Type the PIN on a terminal; it must not be shown."""
    ours, theirs = pty.openpty()
    command = [*KEYD, "token", "unlock", "softhsm", "--json"]
    process = subprocess.Popen(
        command,
        env=clean_environment(dev_site.environment),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b"PIN of softhsm" not in shown:
        shown += os.read(ours, 1024)
    os.write(ours, pin.encode() + b"\n")
    process.communicate(timeout=60)
    shown += os.read(ours, 4096)
    os.close(ours)
    assert pin.encode() not in shown
    return process.returncode
