"""The log by command, and what the shell learns: exit codes, profiles, completion."""

from __future__ import annotations

import json
from pathlib import Path

from tests.dev_site import DevSite
from tests.running import keyd

# --- the log --------------------------------------------------------------------------------------


def test_the_log_is_read_proved_and_verified(dev_site: DevSite, tmp_path: Path) -> None:
    entries = dev_site.json("audit", "list", "--start", "0", "--limit", "2")["entries"]
    assert [one["index"] for one in entries] == [0, 1]
    assert entries[0]["event"] == "genesis"
    assert "genesis" in dev_site.keyd("audit", "list", "--start", "0", "--limit", "1").out
    kept = tmp_path / "kept.note"
    printed = dev_site.keyd("audit", "checkpoint")
    kept.write_text(printed.out)
    verifier = printed.err.strip().removeprefix("verifier key: ")
    assert dev_site.keyd("audit", "prove", "0", "--verifier-key", verifier).code == 0
    dev_site.json("key", "create", "more-log", "--token", "softhsm")
    verified = dev_site.json("audit", "verify", "--verifier-key", verifier, "--checkpoint", kept)
    assert verified["ok"] is True
    assert verified["flaws"] == []
    assert verified["log_size"] > verified["extends"] > 0
    assert verified["verifier_key"] == verifier
    other = verifier[:-4] + ("AAA=" if not verifier.endswith("AAA=") else "BBB=")
    assert dev_site.keyd("audit", "verify", "--verifier-key", other).code == 1
    kept.write_text(printed.out.replace("\n\n", "\nx\n\n", 1))
    forged = dev_site.keyd(
        "audit", "verify", "--verifier-key", verifier, "--checkpoint", kept, "--json"
    )
    assert forged.code == 1
    assert forged.json["ok"] is False
    kept.write_text("a shopping list\n")
    unread = dev_site.keyd("audit", "verify", "--verifier-key", verifier, "--checkpoint", kept)
    assert (unread.code, "CHECKPOINT_MALFORMED" in unread.err, "NOT SOUND" in unread.out) == (
        1,
        True,
        False,
    )


def test_an_export_is_checked_without_a_daemon(dev_site: DevSite, tmp_path: Path) -> None:
    target = tmp_path / "log"
    exported = dev_site.json("audit", "export", "--output", target)
    lines = (target / "entries.jsonl").read_bytes().splitlines()
    assert exported["entries"] == len(lines)
    verifier = dev_site.keyd("audit", "checkpoint").err.strip().removeprefix("verifier key: ")
    check = ["audit", "verify", "--export", str(target), "--verifier-key", verifier, "--json"]
    bare = keyd(*check)
    assert (bare.code, bare.json["flaw_count"]) == (1, bare.json["signatures"]), "no payloads"
    check.append("--no-payloads")
    assert keyd(*check).json["ok"] is True
    assert dev_site.keyd("audit", "export", "--output", target).code == 1  # never overwritten
    assert keyd("audit", "verify", "--export", target).code == 2

    edited = lines[3].replace(b'"principal":"', b'"principal":"x')
    assert edited != lines[3]
    (target / "entries.jsonl").write_bytes(b"\n".join([*lines[:3], edited, *lines[4:]]) + b"\n")
    refused = keyd(*check)
    assert refused.code == 1
    assert {flaw["where"] for flaw in refused.json["flaws"]} == {"checkpoint"}

    first = dev_site.keyd("audit", "export").out.splitlines()[0]
    assert json.loads(first)["index"] == 0


# --- exit codes -----------------------------------------------------------------------------------


def test_what_the_shell_learns(dev_site: DevSite, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "gone.toml").write_text(f'target = "unix:{tmp_path}/none.sock"\ntimeout_s = 20.0\n')
    (profiles / "broken.toml").write_text("target = 1\n")
    environment = {"KEYD_PROFILE_DIR": str(profiles)}
    for profile, code in (("gone", 69), ("broken", 78), ("missing", 78)):
        done = keyd("key", "list", "--json", "-p", profile, environment=environment)
        assert done.code == code, (profile, done.err)
        assert done.json["error"]["reason"]
    assert dev_site.keyd("key", "create", "X", "--token", "softhsm").code == 1
    assert dev_site.keyd("key", "show", "nobody").code == 1
    assert dev_site.keyd("key", "show").code == 2


def test_the_development_profile_is_found_without_being_named(dev_site: DevSite) -> None:
    assert dev_site.keyd("key", "list").code == 0
    (dev_site.folder / "profiles" / "default.toml").write_text(
        'target = "unix:/nonexistent.sock"\n'
    )
    try:
        assert dev_site.keyd("key", "list", "-p", "dev").code == 0
    finally:
        (dev_site.folder / "profiles" / "default.toml").unlink()


def test_completion_completes(dev_site: DevSite) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_KEYD_COMPLETE" in dev_site.keyd("completion", shell).out
    environment = {"_KEYD_COMPLETE": "bash_complete", "COMP_WORDS": "keyd ke", "COMP_CWORD": "1"}
    done = keyd(environment=environment)
    assert done.out.split() == ["plain,key"]
