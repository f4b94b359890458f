"""`keyd repo`, `keyd sign` and `keyd check` against a running daemon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp
from tuf.api.serialization.json import CanonicalJSONSerializer

from tests.dev_site import DevSite

# --- repositories ---------------------------------------------------------------------------------


def test_repository_state_and_rules(dev_site: DevSite) -> None:
    (listed,) = [r for r in dev_site.json("repo", "list")["repositories"] if r["name"] == "demo"]
    assert listed["stage"] == "ACTIVE"
    state = dev_site.json("repo", "state", "demo")["state"]
    assert {role["role"] for role in state["roles"]} >= {"root", "targets", "packages"}
    assert "timestamp" in dev_site.keyd("repo", "state").out
    assert dev_site.json("repo", "rules", "snapshot")["defaults"] is True
    unknown = dev_site.keyd("repo", "rules", "nosuch")
    assert (unknown.code, "ROLE_UNKNOWN" in unknown.err) == (1, True)
    changed = dev_site.json(
        "repo", "set-rules", "snapshot", "expiry_max_s=864000", "--comment", "x"
    )
    assert changed["rules"]["expiry_max_s"] == 864_000
    after = dev_site.json("repo", "rules", "snapshot")
    assert after["defaults"] is False
    assert after["rules"] == changed["rules"]
    extra = dev_site.json(
        "repo", "set-rules", "snapshot", "extra_members=a,b", "require_spare_key=true"
    )
    assert extra["rules"]["extra_members"] == ["a", "b"]
    assert extra["rules"]["require_spare_key"] is True
    assert extra["rules"]["expiry_max_s"] == 864_000
    for wrong in ("expiry_max_s", "expiry_max_s=long", "require_spare_key=1", "unknown=1"):
        assert dev_site.keyd("repo", "set-rules", "snapshot", wrong).code == 2
    assert dev_site.keyd("repo", "state", "nowhere").code == 1


def test_import_and_register(dev_site: DevSite, tmp_path: Path) -> None:
    done = dev_site.keyd("repo", "import", dev_site.metadata("1.snapshot.json"), "--json")
    assert done.code == 0, done.err
    (imported,) = done.json["files"]
    assert (imported["role"], imported["version"], imported["recorded"]) == ("snapshot", 1, True)
    named = f"snapshot={dev_site.metadata('1.snapshot.json')}"
    assert dev_site.keyd("repo", "import", named).code == 0
    forged = tmp_path / "2.snapshot.json"
    forged.write_text(
        dev_site.metadata("1.snapshot.json").read_text().replace('"version":1}', '"version":2}')
    )
    refused = dev_site.keyd("repo", "import", forged, "--json")
    assert refused.code == 1
    again = dev_site.keyd("repo", "register", "demo", dev_site.metadata("1.root.json"))
    assert again.code == 1
    odd = tmp_path / "odd"
    odd.write_text("{}")
    assert dev_site.keyd("repo", "import", odd).code == 2


# --- signing --------------------------------------------------------------------------------------


def _next_timestamp(dev_site: DevSite, path: Path) -> Metadata[Timestamp]:
    """The next version of the demonstration repository's timestamp, unsigned, in a file."""
    state = dev_site.json("repo", "state")["state"]
    (role,) = [one for one in state["roles"] if one["role"] == "timestamp"]
    metadata = Metadata[Timestamp].from_file(str(dev_site.metadata("timestamp.json")))
    metadata.signed.version = role["next_version"]
    metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=20)
    metadata.signatures.clear()
    metadata.to_file(str(path))
    return metadata


def test_a_metadata_file_gets_its_signature(dev_site: DevSite, tmp_path: Path) -> None:
    path = tmp_path / "timestamp.json"
    metadata = _next_timestamp(dev_site, path)
    assert dev_site.json("check", path)["check"]["would_sign"] is True
    done = dev_site.keyd("sign", "--key", "timestamp-1", path)
    assert done.code == 0, done.err
    assert f"demo/timestamp version {metadata.signed.version}, accepted" in done.out
    signed = Metadata[Timestamp].from_file(str(path))
    assert signed.signed == metadata.signed
    root = Metadata[Root].from_file(str(dev_site.metadata("1.root.json")))
    root.verify_delegate("timestamp", signed)

    # The same again is the recorded signature; another payload for this version is refused.
    before = path.read_bytes()
    again = dev_site.json("sign", "--key", "timestamp-1", path)["signatures"][0]
    assert again["replayed"] is True
    assert path.read_bytes() == before
    signed.signed.expires += timedelta(minutes=1)
    signed.to_file(str(path))
    refused = dev_site.keyd("sign", "--key", "timestamp-1", path, "--json")
    assert refused.code == 1
    assert refused.json["error"]["reason"] == "VERSION_ALREADY_SIGNED_DIFFERENTLY"
    checked = dev_site.keyd("check", path, "--json")
    assert checked.code == 1
    assert checked.json["check"]["would_sign"] is False


def test_a_bare_payload_prints_its_signature(dev_site: DevSite, tmp_path: Path) -> None:
    metadata = _next_timestamp(dev_site, tmp_path / "t.json")
    payload = tmp_path / "payload"
    payload.write_bytes(CanonicalJSONSerializer().serialize(metadata.signed))
    done = dev_site.keyd("sign", "--key", "timestamp-1", "--role", "timestamp", payload)
    assert done.code == 0, done.err
    signature = bytes.fromhex(done.out.strip())
    assert signature[0] == 0x30
    nowhere = tmp_path / "signature"
    into = ("--output", nowhere, payload)
    assert dev_site.keyd("sign", "--key", "timestamp-1", "--role", "timestamp", *into).code == 2
    assert not nowhere.exists()
    assert payload.read_bytes() == CanonicalJSONSerializer().serialize(metadata.signed)


def test_output_leaves_the_input_alone(dev_site: DevSite, tmp_path: Path) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    _next_timestamp(dev_site, source)
    before = source.read_bytes()
    assert dev_site.keyd("sign", "--key", "timestamp-1", "--output", target, source).code == 0
    assert source.read_bytes() == before
    assert len(Metadata[Snapshot].from_file(str(target)).signatures) == 1


def test_a_new_root_wants_the_digest_of_its_change(dev_site: DevSite, tmp_path: Path) -> None:
    path = tmp_path / "2.root.json"
    root = Metadata[Root].from_file(str(dev_site.metadata("1.root.json")))
    root.signed.version = 2
    root.signed.expires += timedelta(days=1)
    root.signatures.clear()
    root.to_file(str(path))
    refused = dev_site.keyd("sign", "--key", "root-1", path, "--json")
    assert refused.code == 1
    assert refused.json["error"]["reason"] == "CHANGE_NOT_CONFIRMED"
    shown = dev_site.keyd("check", "--key", "root-1", path, "--json")
    assert shown.code == 1
    checked = shown.json["check"]
    assert any("expires" in line for line in checked["change"])
    digest = checked["change_sha256"]
    assert dev_site.json("check", path, "--confirm-change", digest)["check"]["would_sign"] is True
    sign = ["sign", "--confirm-change", digest, "--key", "root-1", "--key", "root-3", path]
    done = dev_site.keyd(*sign)
    assert done.code == 0, done.err
    assert "accepted" in done.out
    trusted = Metadata[Root].from_file(str(dev_site.metadata("1.root.json")))
    trusted.verify_delegate("root", Metadata[Root].from_file(str(path)))
    assert dev_site.keyd("sign", "--confirm-change", "zz", "--key", "root-1", path).code == 2


def test_other_bytes_are_for_opaque_keys(dev_site: DevSite, tmp_path: Path) -> None:
    key = dev_site.json("key", "create", "layouts", "--token", "softhsm", "--content", "opaque")[
        "key"
    ]
    assert key["content"] == "OPAQUE"
    path = tmp_path / "layout"
    path.write_bytes(b"\x00any bytes")
    done = dev_site.keyd("sign", "--opaque", "--key", "layouts", path)
    assert done.code == 0, done.err
    public = Key.from_dict(key["tuf_keyid"], key["tuf_key"])
    from securesystemslib.signer import Signature

    public.verify_signature(Signature(key["tuf_keyid"], done.out.strip()), path.read_bytes())
    assert dev_site.keyd("sign", "--opaque", "--key", "timestamp-1", path).code != 0
    into = ("--output", tmp_path / "layout.sig", path)
    assert dev_site.keyd("sign", "--opaque", "--key", "layouts", *into).code == 2
    refused = dev_site.keyd(
        "sign", "--opaque", "--key", "layouts", dev_site.metadata("1.root.json"), "--json"
    )
    assert refused.code == 1
    assert refused.json["error"]["reason"] == "OPAQUE_LOOKS_LIKE_TUF"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"signed": 1}', '{"signed": {}, "signatures": 1}', '{"a":1,"a":2}', "{"]
)
def test_files_that_are_no_metadata(dev_site: DevSite, tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    done = dev_site.keyd("sign", "--key", "timestamp-1", "--role", "timestamp", path)
    assert done.code in {1, 2}
    assert "Traceback" not in done.err
    assert path.read_text() == content
