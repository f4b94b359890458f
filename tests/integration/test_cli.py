"""The commands against a running daemon: data, exit codes, and what they refuse to do."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp
from tuf.api.serialization.json import CanonicalJSONSerializer

from tests.running import KEYD, Done, clean_environment, dev, keyd


@dataclass(frozen=True)
class Site:
    """A running `keyd dev` that the tests of this module share; each makes keys of its own."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"KEYD_PROFILE_DIR": str(self.folder / "profiles")}

    def keyd(self, *arguments: str | Path, stdin: str = "") -> Done:
        return keyd(*arguments, environment=self.environment, stdin=stdin)

    def json(self, *arguments: str | Path) -> Any:
        done = self.keyd(*arguments, "--json")
        assert done.code == 0, done.err
        assert done.json["version"] == 1
        return done.json

    def metadata(self, name: str) -> Path:
        return self.folder / "repository" / "metadata" / name


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="keyd-cli-", dir="/tmp") as name:
        folder = Path(name) / "d"
        with dev(folder) as daemon:
            daemon.wait_for_file(folder / "ready")
            yield Site(folder)
            assert daemon.stop() == 0


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "more"),
    [
        ("ecdsa-sha2-nistp256", []),
        ("ed25519", []),
        ("rsassa-pss-sha256", ["--rsa-bits", "2048"]),
    ],
)
def test_create_show_and_list(site: Site, scheme: str, more: list[str]) -> None:
    name = f"made-{scheme[:5]}"
    made = site.json("key", "create", name, "--token", "softhsm", "--scheme", scheme, *more)["key"]
    assert made["name"] == name
    assert made["scheme"] == scheme
    assert made["token"] == "softhsm"
    assert made["content"] == "TUF"
    assert made["state"] == "PRE_ACTIVE"
    assert site.json("key", "show", name)["key"] == made
    assert made in site.json("key", "list")["keys"]
    assert site.keyd("key", "show", name, "--pem").out == made["public_key_pem"]
    tuf_key = json.loads(site.keyd("key", "show", name, "--tuf").out)
    assert tuf_key == made["tuf_key"]
    Key.from_dict(made["tuf_keyid"], tuf_key)
    assert f"TUF key id: {made['tuf_keyid']}" in site.keyd("key", "show", name).out
    again = site.keyd("key", "create", name, "--token", "softhsm")
    assert again.code == 1
    assert again.out == ""


def test_a_state_changes_and_what_cannot_be_undone_asks_for_the_name(site: Site) -> None:
    site.json("key", "create", "doomed", "--token", "softhsm")
    refused = site.keyd("key", "compromise", "doomed")
    assert refused.code == 2
    assert "--confirm doomed" in refused.err
    refused = site.keyd("key", "compromise", "doomed", "--confirm", "other")
    assert refused.code == 2
    assert "nothing was done" in refused.err
    assert site.json("key", "show", "doomed")["key"]["state"] == "PRE_ACTIVE"
    marked = site.json("key", "compromise", "doomed", "--confirm", "doomed", "--comment", "stolen")
    assert marked["key"]["state"] == "COMPROMISED"
    entry = site.json("audit", "list", "--limit", "1")["entries"][0]
    assert entry["event"] == "key_state_changed"
    assert entry["comment"] == "stolen"

    site.json("key", "create", "retired", "--token", "softhsm")
    assert site.keyd("key", "suspend", "retired").code == 1  # it was never active
    assert site.keyd("key", "resume", "retired").code == 1
    retired = site.json("key", "deactivate", "retired", "--confirm", "retired")["key"]
    assert retired["state"] == "DEACTIVATED"


def test_the_name_is_asked_for_on_a_terminal(site: Site) -> None:
    site.json("key", "create", "asked", "--token", "softhsm")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*KEYD, "key", "deactivate", "asked", "--json"],
        env=clean_environment(site.environment),
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


def test_adopt_a_key_that_an_operator_made(site: Site) -> None:
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
    softhsm = site.folder / "softhsm"
    module = _module(site)
    subprocess.run(
        [sys.executable, "-c", script, module, str(softhsm / "pin")],
        env=os.environ | {"SOFTHSM2_CONF": str(softhsm / "softhsm2.conf")},
        check=True,
        timeout=60,
    )
    found = [
        one for one in site.json("token", "keys", "softhsm")["keys"] if one["cka_id"] == "c0ffee"
    ]
    assert len(found) == 1, found
    assert found[0]["registered_as"] == ""
    adopt = ["key", "adopt", "by-hand", "--token", "softhsm", "--id", "c0ffee"]
    wrong = site.keyd(*adopt, "--key-sha256", "00" * 32)
    assert wrong.code == 1
    adopted = site.json(*adopt, "--key-sha256", found[0]["key_sha256"])["key"]
    assert adopted["adopted"] is True
    assert adopted["key_sha256"] == found[0]["key_sha256"]
    assert site.keyd("key", "adopt", "none", "--token", "softhsm", "--id", "beef").code == 1
    assert site.keyd("key", "adopt", "none", "--token", "softhsm", "--id", "xyz").code == 2


def _module(site: Site) -> str:
    import tomllib

    settings = tomllib.loads((site.folder / "keyd.toml").read_text())
    module: str = settings["token"][0]["module"]
    return module


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens(site: Site) -> None:
    (listed,) = site.json("token", "list")["tokens"]
    assert (listed["name"], listed["state"]) == ("softhsm", "ONLINE")
    text = site.keyd("token", "list").out
    assert text.splitlines()[0].split() == ["NAME", "STATE", "SERIAL", "LABEL", "MODEL", "DETAIL"]
    watched = site.keyd("token", "watch", "--for", "0.5", "--json")
    assert watched.code == 0
    events = [json.loads(line) for line in watched.out.splitlines()]
    assert events[0]["event"]["token"]["name"] == "softhsm"
    assert events[0]["version"] == 1


def test_unlocking_by_file_descriptor_and_prompt(site: Site, tmp_path: Path) -> None:
    pin_file = site.folder / "softhsm" / "pin"
    unlocked = site.json("token", "unlock", "softhsm", "--pin-file", pin_file)["token"]
    assert unlocked["state"] == "ONLINE"
    both = site.keyd("token", "unlock", "softhsm", "--pin-file", pin_file, "--retry-configured")
    assert both.code == 2
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert site.keyd("token", "unlock", "softhsm", "--pin-file", empty).code == 2
    assert site.keyd("token", "unlock", "softhsm", "--pin-file", tmp_path / "none").code == 2
    with pin_file.open("rb") as opened:
        done = subprocess.run(
            [*KEYD, "token", "unlock", "softhsm", "--pin-fd", str(opened.fileno()), "--json"],
            env=clean_environment(site.environment),
            pass_fds=[opened.fileno()],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert _prompted_unlock(site, pin_file.read_text().strip()) == 0


def _prompted_unlock(site: Site, pin: str) -> int:
    """Type the PIN on a terminal; it must not be shown."""
    ours, theirs = pty.openpty()
    command = [*KEYD, "token", "unlock", "softhsm", "--json"]
    process = subprocess.Popen(
        command,
        env=clean_environment(site.environment),
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


# --- repositories ---------------------------------------------------------------------------------


def test_repository_state_and_rules(site: Site) -> None:
    (listed,) = [r for r in site.json("repo", "list")["repositories"] if r["name"] == "demo"]
    assert listed["stage"] == "ACTIVE"
    state = site.json("repo", "state", "demo")["state"]
    assert {role["role"] for role in state["roles"]} >= {"root", "targets", "packages"}
    assert "timestamp" in site.keyd("repo", "state").out
    assert site.json("repo", "rules", "snapshot")["defaults"] is True
    changed = site.json("repo", "set-rules", "snapshot", "expiry_max_s=864000", "--comment", "x")
    assert changed["rules"]["expiry_max_s"] == 864_000
    after = site.json("repo", "rules", "snapshot")
    assert after["defaults"] is False
    assert after["rules"] == changed["rules"]
    extra = site.json(
        "repo", "set-rules", "snapshot", "extra_members=a,b", "require_spare_key=true"
    )
    assert extra["rules"]["extra_members"] == ["a", "b"]
    assert extra["rules"]["require_spare_key"] is True
    assert extra["rules"]["expiry_max_s"] == 864_000
    for wrong in ("expiry_max_s", "expiry_max_s=long", "require_spare_key=1", "unknown=1"):
        assert site.keyd("repo", "set-rules", "snapshot", wrong).code == 2
    assert site.keyd("repo", "state", "nowhere").code == 1


def test_import_and_register(site: Site, tmp_path: Path) -> None:
    done = site.keyd("repo", "import", site.metadata("1.snapshot.json"), "--json")
    assert done.code == 0, done.err
    (imported,) = done.json["files"]
    assert (imported["role"], imported["version"], imported["recorded"]) == ("snapshot", 1, True)
    named = f"snapshot={site.metadata('1.snapshot.json')}"
    assert site.keyd("repo", "import", named).code == 0
    forged = tmp_path / "2.snapshot.json"
    forged.write_text(
        site.metadata("1.snapshot.json").read_text().replace('"version":1}', '"version":2}')
    )
    refused = site.keyd("repo", "import", forged, "--json")
    assert refused.code == 1
    again = site.keyd("repo", "register", "demo", site.metadata("1.root.json"))
    assert again.code == 1
    odd = tmp_path / "odd"
    odd.write_text("{}")
    assert site.keyd("repo", "import", odd).code == 2


# --- signing --------------------------------------------------------------------------------------


def _next_timestamp(site: Site, path: Path) -> Metadata[Timestamp]:
    """The next version of the demonstration repository's timestamp, unsigned, in a file."""
    state = site.json("repo", "state")["state"]
    (role,) = [one for one in state["roles"] if one["role"] == "timestamp"]
    metadata = Metadata[Timestamp].from_file(str(site.metadata("timestamp.json")))
    metadata.signed.version = role["next_version"]
    metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=20)
    metadata.signatures.clear()
    metadata.to_file(str(path))
    return metadata


def test_a_metadata_file_gets_its_signature(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "timestamp.json"
    metadata = _next_timestamp(site, path)
    assert site.json("check", path)["check"]["would_sign"] is True
    done = site.keyd("sign", "--key", "timestamp-1", path)
    assert done.code == 0, done.err
    assert f"demo/timestamp version {metadata.signed.version}, accepted" in done.out
    signed = Metadata[Timestamp].from_file(str(path))
    assert signed.signed == metadata.signed
    root = Metadata[Root].from_file(str(site.metadata("1.root.json")))
    root.verify_delegate("timestamp", signed)

    # The same again is the recorded signature; another payload for this version is refused.
    before = path.read_bytes()
    again = site.json("sign", "--key", "timestamp-1", path)["signatures"][0]
    assert again["replayed"] is True
    assert path.read_bytes() == before
    signed.signed.expires += timedelta(minutes=1)
    signed.to_file(str(path))
    refused = site.keyd("sign", "--key", "timestamp-1", path, "--json")
    assert refused.code == 1
    assert refused.json["error"]["reason"] == "VERSION_ALREADY_SIGNED_DIFFERENTLY"
    checked = site.keyd("check", path, "--json")
    assert checked.code == 1
    assert checked.json["check"]["would_sign"] is False


def test_a_bare_payload_prints_its_signature(site: Site, tmp_path: Path) -> None:
    metadata = _next_timestamp(site, tmp_path / "t.json")
    payload = tmp_path / "payload"
    payload.write_bytes(CanonicalJSONSerializer().serialize(metadata.signed))
    done = site.keyd("sign", "--key", "timestamp-1", "--role", "timestamp", payload)
    assert done.code == 0, done.err
    signature = bytes.fromhex(done.out.strip())
    assert signature[0] == 0x30
    assert payload.read_bytes() == CanonicalJSONSerializer().serialize(metadata.signed)


def test_output_leaves_the_input_alone(site: Site, tmp_path: Path) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    _next_timestamp(site, source)
    before = source.read_bytes()
    assert site.keyd("sign", "--key", "timestamp-1", "--output", target, source).code == 0
    assert source.read_bytes() == before
    assert len(Metadata[Snapshot].from_file(str(target)).signatures) == 1


def test_a_new_root_wants_the_digest_of_its_change(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "2.root.json"
    root = Metadata[Root].from_file(str(site.metadata("1.root.json")))
    root.signed.version = 2
    root.signed.expires += timedelta(days=1)
    root.signatures.clear()
    root.to_file(str(path))
    refused = site.keyd("sign", "--key", "root-1", path, "--json")
    assert refused.code == 1
    assert refused.json["error"]["reason"] == "CHANGE_NOT_CONFIRMED"
    shown = site.keyd("check", "--key", "root-1", path, "--json")
    assert shown.code == 1
    checked = shown.json["check"]
    assert any("expires" in line for line in checked["change"])
    digest = checked["change_sha256"]
    assert site.json("check", path, "--confirm-change", digest)["check"]["would_sign"] is True
    sign = ["sign", "--confirm-change", digest, "--key", "root-1", "--key", "root-3", path]
    done = site.keyd(*sign)
    assert done.code == 0, done.err
    assert "accepted" in done.out
    trusted = Metadata[Root].from_file(str(site.metadata("1.root.json")))
    trusted.verify_delegate("root", Metadata[Root].from_file(str(path)))
    assert site.keyd("sign", "--confirm-change", "zz", "--key", "root-1", path).code == 2


def test_other_bytes_are_for_opaque_keys(site: Site, tmp_path: Path) -> None:
    key = site.json("key", "create", "layouts", "--token", "softhsm", "--content", "opaque")["key"]
    assert key["content"] == "OPAQUE"
    path = tmp_path / "layout"
    path.write_bytes(b"\x00any bytes")
    done = site.keyd("sign", "--opaque", "--key", "layouts", path)
    assert done.code == 0, done.err
    public = Key.from_dict(key["tuf_keyid"], key["tuf_key"])
    from securesystemslib.signer import Signature

    public.verify_signature(Signature(key["tuf_keyid"], done.out.strip()), path.read_bytes())
    assert site.keyd("sign", "--opaque", "--key", "timestamp-1", path).code != 0
    refused = site.keyd(
        "sign", "--opaque", "--key", "layouts", site.metadata("1.root.json"), "--json"
    )
    assert refused.code == 1
    assert refused.json["error"]["reason"] == "OPAQUE_LOOKS_LIKE_TUF"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"signed": 1}', '{"signed": {}, "signatures": 1}', '{"a":1,"a":2}', "{"]
)
def test_files_that_are_no_metadata(site: Site, tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    done = site.keyd("sign", "--key", "timestamp-1", "--role", "timestamp", path)
    assert done.code in {1, 2}
    assert "Traceback" not in done.err
    assert path.read_text() == content


# --- the log --------------------------------------------------------------------------------------


def test_the_log_is_read_proved_and_verified(site: Site, tmp_path: Path) -> None:
    entries = site.json("audit", "list", "--start", "0", "--limit", "2")["entries"]
    assert [one["index"] for one in entries] == [0, 1]
    assert entries[0]["event"] == "genesis"
    assert "genesis" in site.keyd("audit", "list", "--start", "0", "--limit", "1").out
    kept = tmp_path / "kept.note"
    printed = site.keyd("audit", "checkpoint")
    kept.write_text(printed.out)
    verifier = printed.err.strip().removeprefix("verifier key: ")
    assert site.keyd("audit", "prove", "0", "--verifier-key", verifier).code == 0
    site.json("key", "create", "more-log", "--token", "softhsm")
    verified = site.json("audit", "verify", "--verifier-key", verifier, "--checkpoint", kept)
    assert verified["ok"] is True
    assert verified["flaws"] == []
    assert verified["log_size"] > verified["extends"] > 0
    assert verified["verifier_key"] == verifier
    other = verifier[:-4] + ("AAA=" if not verifier.endswith("AAA=") else "BBB=")
    assert site.keyd("audit", "verify", "--verifier-key", other).code == 1
    kept.write_text(printed.out.replace("\n\n", "\nx\n\n", 1))
    forged = site.keyd(
        "audit", "verify", "--verifier-key", verifier, "--checkpoint", kept, "--json"
    )
    assert forged.code == 1
    assert forged.json["ok"] is False


def test_an_export_is_checked_without_a_daemon(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "log"
    exported = site.json("audit", "export", "--output", target)
    lines = (target / "entries.jsonl").read_bytes().splitlines()
    assert exported["entries"] == len(lines)
    verifier = site.keyd("audit", "checkpoint").err.strip().removeprefix("verifier key: ")
    check = ["audit", "verify", "--export", str(target), "--verifier-key", verifier, "--json"]
    assert keyd(*check).json["ok"] is True
    assert site.keyd("audit", "export", "--output", target).code == 1  # never overwritten
    assert keyd("audit", "verify", "--export", target).code == 2

    edited = lines[3].replace(b'"principal":"', b'"principal":"x')
    assert edited != lines[3]
    (target / "entries.jsonl").write_bytes(b"\n".join([*lines[:3], edited, *lines[4:]]) + b"\n")
    refused = keyd(*check)
    assert refused.code == 1
    assert refused.json["flaw_count"] >= 1

    first = site.keyd("audit", "export").out.splitlines()[0]
    assert json.loads(first)["index"] == 0


# --- exit codes -----------------------------------------------------------------------------------


def test_what_the_shell_learns(site: Site, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "gone.toml").write_text(f'target = "unix:{tmp_path}/none.sock"\ntimeout_s = 20.0\n')
    (profiles / "broken.toml").write_text("target = 1\n")
    environment = {"KEYD_PROFILE_DIR": str(profiles)}
    for profile, code in (("gone", 69), ("broken", 78), ("missing", 78)):
        done = keyd("key", "list", "--json", "-p", profile, environment=environment)
        assert done.code == code, (profile, done.err)
        assert done.json["error"]["reason"]
    assert site.keyd("key", "create", "X", "--token", "softhsm").code == 1
    assert site.keyd("key", "show", "nobody").code == 1
    assert site.keyd("key", "show").code == 2


def test_the_development_profile_is_found_without_being_named(site: Site) -> None:
    assert site.keyd("key", "list").code == 0
    (site.folder / "profiles" / "default.toml").write_text('target = "unix:/nonexistent.sock"\n')
    try:
        assert site.keyd("key", "list", "-p", "dev").code == 0
    finally:
        (site.folder / "profiles" / "default.toml").unlink()


def test_completion_completes(site: Site) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_KEYD_COMPLETE" in site.keyd("completion", shell).out
    environment = {"_KEYD_COMPLETE": "bash_complete", "COMP_WORDS": "keyd ke", "COMP_CWORD": "1"}
    done = keyd(environment=environment)
    assert done.out.split() == ["plain,key"]
