"""`keyd rotate` against a real daemon, published by the SDK, followed by stock clients."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, SuccinctRoles

from demo.web import download, new_client, over_http
from keyd_client import RoleKeys, errors, repository
from keyd_client.messages import label
from tests.integration.sdk_daemon import PROFILE, ROLES, Running, running
from tests.running import Done, keyd

__all__ = ["running"]


def command(running: Running, *arguments: str | Path, profile: bool = True) -> Done:
    named = ["-p", PROFILE] if profile else []
    environment = {"KEYD_PROFILE_DIR": str(running.place.profiles)}
    done = keyd(*arguments, *named, environment=environment)
    assert "Traceback" not in done.err, done.err
    return done


@pytest.fixture
def published(running: Running) -> Running:
    running.make_role_keys()
    running.make_keys("team-1")
    repository = running.repository()
    repository.initialize(ROLES)
    repository.add_targets({"hello.txt": b"hello"})
    repository.delegate("team", RoleKeys(1, ["team-1"]), ["team/*"])
    repository.add_targets({"team/tool": b"tool"}, "team")
    repository.publish()
    return running


TIMESTAMP = ("timestamp", "--replace", "--add", "timestamp-2@softhsm", "--scheme", "ed25519")


class InTwoDays(datetime):
    """A clock for those who publish after a weekend."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> InTwoDays:
        later = datetime.now(tz) + timedelta(days=2)
        return cls.fromtimestamp(later.timestamp(), tz)


def test_from_plan_to_publication(
    published: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = command(published, "rotate", "plan", *TIMESTAMP)
    assert planned.code == 0, planned.err
    assert "sign root 2: timestamp +timestamp-2 -timestamp-1" in planned.out
    digest = planned.out.split()[-1]
    unread = command(published, "rotate", "start", *TIMESTAMP, "--confirm", "0" * 64)
    assert (unread.code, "nothing was started" in unread.err) == (2, True)
    started = command(published, "rotate", "start", *TIMESTAMP, "--confirm", digest, "--json")
    assert started.code == 0, started.err
    name = started.json["rotation"]["name"]
    assert started.json["rotation"]["state"] == "READY"
    again = command(published, "rotate", "continue", name)
    assert again.code == 0, again.err
    listed = command(published, "rotate", "status")
    assert name in listed.out

    with monkeypatch.context() as monday:
        monday.setattr(repository, "datetime", InTwoDays)
        with pytest.raises(errors.PolicyViolation, match=r"ROTATION_FILES_EXPIRED.*timestamp 2"):
            published.repository().apply(name)
    assert not (published.place.repository / "metadata" / "2.root.json").exists()
    with over_http(published.place.repository) as url:
        home = tmp_path / "client"
        assert download(new_client(url, published.place.repository, home), "hello.txt") == b"hello"
        published.repository().apply(name)
        published.repository().apply(name)
        assert download(new_client(url, published.place.repository, home), "team/tool") == b"tool"
    status = command(published, "rotate", "status", name)
    assert "RETIRING" in status.out
    assert "the old keys are deactivated when" in status.out
    files = command(published, "rotate", "files", name, "--output", tmp_path / "out", "--json")
    assert [one["file"] for one in files.json["files"]] == ["2.root.json", "timestamp.json"]
    for one in files.json["files"]:
        there = (published.place.repository / "metadata" / one["file"]).read_bytes()
        assert (tmp_path / "out" / one["file"]).read_bytes() == there
    said = command(published, "rotate", "files", name, "--published", "--json")
    assert said.json["rotation"]["state"] == "RETIRING"
    assert command(published, "rotate", "files", name).code == 2
    published.repository().publish()


PARTS = tuple(f"part-{number}" for number in range(4))


def delegate_parts(published: Running) -> None:
    """The team delegates hash bins, one key for all, and all of them are published."""
    published.make_keys("parts-1")
    public = published.signer("parts-1").public_key
    repository = published.repository()
    with repository.edit_targets("team") as team:
        succinct = SuccinctRoles([public.keyid], 1, 2, "part")
        team.delegations = Delegations({public.keyid: public}, succinct_roles=succinct)
    for role in PARTS:
        with repository.edit_targets(role):
            pass
    repository.publish()


def test_hash_bins_by_their_prefix(published: Running, tmp_path: Path) -> None:
    delegate_parts(published)
    change = ("delegated", "--role", "part", "--remove", "parts-1", "--add", "parts-2@softhsm")
    one = command(published, "rotate", "plan", "delegated", "--role", "part-0", *change[3:])
    assert (one.code, "ROTATION_OF_BINS" in one.err) == (1, True)
    planned = command(published, "rotate", "plan", *change)
    assert planned.code == 0, planned.err
    assert "3. sign part-0 … part-3, 4 roles: their keys changed" in planned.out
    listed = command(published, "rotate", "plan", *change, "--json").json["plan"]["plan"]["steps"]
    assert [step["bins"] for step in listed if "bins" in step] == [[[role, 0] for role in PARTS]]

    def seen(home: Path) -> set[object]:
        client = new_client(url, published.place.repository, home)
        return {client.get_targetinfo(f"team/{number}") for number in range(30)}

    with over_http(published.place.repository) as url:
        assert seen(tmp_path / "cached") == {None}
        digest = planned.out.split()[-1]
        started = command(published, "rotate", "start", *change, "--confirm", digest, "--json")
        assert started.code == 0, started.err
        name = started.json["rotation"]["name"]
        status = command(published, "rotate", "status", name)
        assert "sign part-0 … part-3, 4 roles: their keys changed" in status.out
        published.repository().apply(name)
        for home in ("cached", "fresh"):
            assert seen(tmp_path / home) == {None}
    files = command(published, "rotate", "files", name, "--output", tmp_path / "out", "--json")
    assert [one["file"] for one in files.json["files"]] == [
        *("3.team.json", *(f"2.{role}.json" for role in PARTS)),
        *("3.snapshot.json", "timestamp.json"),
    ]


def upload_signature(published: Running, name: str, folder: Path, signer: CryptoSigner) -> None:
    """A wrong signature is refused; the right one is taken, and taken again."""
    signature = signer.sign((folder / "payload").read_bytes())
    wrong = signer.sign(b"something else")
    file = folder / "sig"
    said = ("--receipt", folder / "receipt.json", "--keyid", signature.keyid, file)
    for content, code in ((wrong.signature, 1), (signature.signature, 0)):
        file.write_text(content)
        done = command(published, "rotate", "upload", name, *said)
        assert done.code == code, done.err
    again = command(published, "rotate", "upload", name, *said, "--json")
    assert again.json["replayed"]


def receipt_of(published: Running, name: str, folder: Path) -> dict[str, Any]:
    """Fetched by somebody with own copies of the trusted root and of the log's verifier key."""
    signed = command(published, "audit", "checkpoint", "--json").json["checkpoint"]
    trusted = published.place.repository / "metadata" / "1.root.json"
    own = ("--trusted", trusted, "--verifier-key", signed["verifier_key"])
    done = command(published, "rotate", "receipt", name, "--output", folder, *own, "--json")
    assert done.code == 0, done.err
    receipt: dict[str, Any] = done.json["receipt"]
    assert (done.json["doubts"], done.json["changes"]) == ([], receipt["change"])
    return receipt


def test_a_key_elsewhere_signs_by_receipt(published: Running, tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ecdsa()
    (tmp_path / "dave.json").write_text(json.dumps(signer.public_key.to_dict()))
    change = ["root", "--remove", "root-1", "--remove", "root-2", "--threshold", "2"]
    change += ["--add-elsewhere", f"dave/token={tmp_path / 'dave.json'}"]
    change += ["--add-elsewhere", f"erin/token={tmp_path / 'erin.json'}"]
    other = CryptoSigner.generate_ecdsa()
    (tmp_path / "erin.json").write_text(json.dumps(other.public_key.to_dict()))
    planned = command(published, "rotate", "plan", *change)
    assert planned.code == 0, planned.err + planned.out
    digest = planned.out.split()[-1]
    started = command(published, "rotate", "start", *change, "--confirm", digest, "--json")
    assert started.code == 75, started.err
    rotation = started.json["rotation"]
    assert rotation["state"] == "WAITING"
    assert rotation["steps"][0]["missing"] == [
        "1 of 2 new, still missing: token (dave), token (erin)"
    ]
    name = rotation["name"]
    folder = tmp_path / "to-sign"
    receipt = receipt_of(published, name, folder)
    assert receipt["wanted"][signer.public_key.keyid] == "dave"
    upload_signature(published, name, folder, signer)
    assert command(published, "rotate", "continue", name).code == 0
    published.repository().apply(name)
    status = command(published, "repo", "status", "--json")
    (root,) = [role for role in status.json["roles"] if role["role"] == "root"]
    assert root["renewal_people"] == ["dave"]
    assert status.code == 0, status.out

    roots = [published.place.repository / "metadata" / f"{n}.root.json" for n in (1, 2)]
    looked_back = command(published, "rotate", "explain", *roots, "--json", profile=False)
    assert looked_back.code == 0, looked_back.err
    assert [one["missing"] for one in looked_back.json["signatures"]] == [0, 0]
    assert looked_back.json["client"]["takes"]
    new = CryptoSigner.generate_ecdsa()
    (tmp_path / "new.json").write_text(json.dumps(new.public_key.to_dict()))
    change = ["root", "--add-elsewhere", f"dave/second={tmp_path / 'new.json'}"]
    for reason, more in (
        ("HOLDER_COUNTS_TWICE", []),
        ("HOLDER_SIGNS_TWICE", ["--remove", signer.public_key.keyid]),
    ):
        told = command(published, "rotate", "plan", *change, *more)
        assert f"warning: {reason}: dave " in told.err


def test_what_is_refused_says_why(published: Running) -> None:
    refused = command(published, "rotate", "plan", "timestamp", "--replace")
    assert refused.code == 1
    assert "NEW_THRESHOLD_UNREACHABLE" in refused.err
    unknown = command(published, "rotate", "continue", "r-unknown")
    assert (unknown.code, "ROTATION_UNKNOWN" in unknown.err) == (1, True)
    usage = command(published, "rotate", "plan", "delegated", "--add", "x@softhsm")
    assert usage.code == 2
    repository = published.repository()
    repository.add_targets({"new": b"new"})
    with pytest.raises(errors.InvalidRequest, match="EDITS_PENDING"):
        repository.apply("r-unknown")
    assert [label(key, "state") for key in published.client.keys.list()].count("ACTIVE") == 8
