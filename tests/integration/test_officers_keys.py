"""Officers' own keys: files that are marked for ever, PINs typed on a terminal, replacement."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyd.ledger.verification.verify import verify_ledger
from tests.daemon import Installation
from tests.officer_site import new_person
from tests.running import KEYD, Done, clean_environment, keyd
from tests.softhsm import create_softhsm, write_secret

PATIENCE_S = 30.0


class Site:
    """A development daemon whose three officers have keys in files."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation

    def path(self, name: str) -> Path:
        return self.installation.root / name

    def make(self, name: str) -> Done:
        key = f"file:{self.path(name)}.key"
        return keyd("officer", "key", "--key", key, "--make", "--out", f"{self.path(name)}.pem")

    def json(self, *arguments: str | Path) -> Any:
        done = self.installation.keyd(*arguments, "--json")
        assert done.code == 0, done.err
        return done.json

    def genesis(self, kind: str) -> Done:
        lines = ["threshold = 2"]
        for name in ("alice", "bob", "carol"):
            lines += [f'[[officer]]\nname = "{name}"\npublic_key = "{name}.pem"\nkind = "{kind}"']
        self.path("officers.toml").write_text("\n".join(lines))
        file = self.path("officers.toml")
        return self.installation.keyd("officer", "genesis", file, "--confirm", file.name)

    def approve(self, proposal: str, officer: str, key: str = "") -> Done:
        key = f"file:{self.path(key or officer)}.key"
        said = ("--officer", officer, "--key", key, "--confirm", proposal)
        return self.installation.keyd("proposal", "approve", proposal, *said)

    def keys(self, officer: str) -> list[tuple[str, str]]:
        listed = self.json("officer", "list")["officers"]
        [person] = [each for each in listed if each["name"] == officer]
        return [(key["kind"], key["state"]) for key in person["keys"]]


@pytest.fixture
def site(socket_dir: Path) -> Iterator[Site]:
    made = Installation(socket_dir)
    token = create_softhsm(made.softhsm, "test")
    facts = f'{{"module": "{token.module}", "uri": "{token.uri}"}}'
    (made.root / "token.json").write_text(facts)
    made.configure()
    config = made.config.read_text().replace("[daemon]\n", "[daemon]\ndevelopment = true\n")
    made.config.write_text(config)
    done = keyd("init", "--config", made.config, "--origin", "keyd.test/log")
    assert done.code == 0, done.err
    with made.serve() as daemon:
        daemon.wait_for("daemon_ready")
        site = Site(made)
        for name in ("alice", "bob", "carol", "new"):
            assert site.make(name).code == 0
        yield site
        assert daemon.stop() == 0
    assert verify_ledger(made.ledger).sound


def test_key_files_are_marked_and_replaced_by_the_others(site: Site) -> None:
    """`officer replace` end to end: the old key is kept on record and approves nothing more."""
    assert (site.path("alice.key").stat().st_mode & 0o777) == 0o600
    assert site.genesis("file").code == 0
    assert site.keys("alice") == [("FILE", "ACTIVE")]

    new = site.path("new.pem")
    made = site.json("officer", "replace", "alice", "--public-key", new, "--kind", "file")
    proposal = made["proposal"]["name"]
    concerned = site.approve(proposal, "alice")
    assert (concerned.code, "OFFICER_CONCERNED" in concerned.err) == (77, True)
    for officer in ("bob", "carol"):
        done = site.approve(proposal, officer)
        assert done.code == 0, done.err
        assert "warning: a key in a file is for development only" in done.err
        assert "REPLACED" in done.err
    site.json("proposal", "execute", proposal, "--confirm", proposal)
    assert site.keys("alice") == [("FILE", "REPLACED"), ("FILE", "ACTIVE")]

    after = site.json("proposal", "create", "--base-rule", "1")["proposal"]["name"]
    old = site.approve(after, "alice")
    assert (old.code, "OFFICER_KEY_UNKNOWN" in old.err) == (77, True)
    assert site.approve(after, "alice", "new").code == 0
    documents = [
        entry for entry in site.json("audit", "list")["entries"] if "document" in str(entry)
    ]
    assert all("file" in str(entry) for entry in documents)
    assert len(documents) == 4


def test_key_files_are_refused_where_it_matters(installation: Installation) -> None:
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        site = Site(installation)
        for name in ("alice", "bob", "carol"):
            site.make(name)
        refused = site.genesis("file")
        assert (refused.code, "OFFICER_KEY_IN_FILE" in refused.err) == (1, True)
        assert site.json("officer", "list")["officers"] == []
        assert daemon.stop() == 0


def test_key_files_open_to_others_are_not_read(tmp_path: Path) -> None:
    key = tmp_path / "alice.key"
    made = keyd("officer", "key", "--key", f"file:{key}", "--make", "--out", tmp_path / "a.pem")
    assert made.code == 0
    key.chmod(0o640)
    again = keyd("officer", "key", "--key", f"file:{key}", "--out", tmp_path / "b.pem")
    assert (again.code, "OFFICER_KEY_UNUSABLE" in again.err) == (1, True)


def test_a_pin_is_typed_on_the_terminal_and_not_shown(tmp_path: Path) -> None:
    person = new_person(tmp_path, "alice")
    out = tmp_path / "typed.pem"
    command = ["officer", "key", "--key", person.token.uri]
    command += ["--module", str(person.token.module), "--out", str(out)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*KEYD, *command],
        env=clean_environment(person.token.env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            shown = _read(ours, f"PIN of the token {person.token.uri!a}: ".encode())
            os.write(ours, f"{person.token.pin}\n".encode())
            shown += _read(ours, b"")
            assert process.wait(PATIENCE_S) == 0, shown
        finally:
            process.kill()
    os.close(ours)
    assert person.token.pin.encode() not in shown
    assert out.read_bytes() == person.pem.read_bytes()


_TRIES_ARE_LOW = """
import sys
import pkcs11
token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])
print(pkcs11.TokenFlag.USER_PIN_COUNT_LOW in token.flags)
"""


def test_a_pin_file_in_the_address_is_not_presented(tmp_path: Path) -> None:
    """These commands remember nothing: each would spend one more try on a wrong PIN."""
    token = new_person(tmp_path, "alice").token
    wrong = write_secret(tmp_path / "wrong-pin", "not the PIN")
    command = ["officer", "key", "--key", f"{token.uri}?pin-source=file:{wrong}"]
    command += ["--module", str(token.module), "--out", str(tmp_path / "out.pem")]
    done = keyd(*command, environment=token.env)
    assert (done.code, "OFFICER_PIN_SOURCE" in done.err) == (1, True), done.err
    look = [sys.executable, "-c", _TRIES_ARE_LOW, str(token.module), token.label]
    seen = subprocess.run(
        look, env=os.environ | token.env, check=True, capture_output=True, timeout=PATIENCE_S
    )
    assert seen.stdout.strip() == b"False"


def _read(terminal: int, until: bytes) -> bytes:
    """What a terminal shows up to some words; b"": up to its end."""
    seen, deadline = b"", time.monotonic() + PATIENCE_S
    while not until or until not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen
        try:
            new = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            new = b""
        if not new:
            assert not until, seen
            return seen
        seen += new
    return seen
