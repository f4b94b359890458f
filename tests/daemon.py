"""A whole installation of `keyd serve` below one directory, to be killed and started again.

`install` builds one with keys on a SoftHSM token and a repository whose first versions are
published; `Installation.copy_to` makes further ones of it, which costs no key generation.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from keyd.cli.development.layout import write_whole
from keyd.domain.methods import METHODS
from keyd_client import Client
from keyd_client.profile import Profile
from tests.recording import Recorder
from tests.running import Daemon, Done, keyd
from tests.softhsm import create_softhsm

TOKEN = "hsm"
REPOSITORY = "demo"
CI = "spiffe://test.example/ci"
ROOT_KEYS = ("root-1", "root-2", "root-3")
TEAMS = ("team-a", "team-b", "team-c", "team-d")
BINS = tuple(f"bin-{number:02}" for number in range(32))
TUF_KEYS = (*ROOT_KEYS, "targets", "snapshot", "timestamp", *TEAMS, "bins")
OPAQUE_KEY = "layouts"
_ALLOW_ROOT = ["--allow-root"] if os.geteuid() == 0 else []


@dataclass(frozen=True)
class Installation:
    """One installation; `root` has a short name, for its sockets."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "keyd.toml"

    @property
    def policy(self) -> Path:
        return self.root / "policy.toml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def anchor(self) -> Path:
        return self.root / "anchor"

    @property
    def softhsm(self) -> Path:
        return self.root / "softhsm"

    @property
    def pin(self) -> str:
        return (self.softhsm / "pin").read_text().strip()

    @property
    def profiles(self) -> Path:
        return self.root / "profiles"

    @property
    def _armed(self) -> Path:
        return self.root / "armed"

    def socket(self, principal: str = "admin") -> Path:
        return self.root / "run" / principal / "s"

    def client(self, principal: str = "admin", timeout_s: float = 30.0) -> Client:
        """A client of its own; `admin` is the local administrator, `release` is not."""
        target = f"unix:{self.socket(principal)}"
        return Client(Profile(target, repository=REPOSITORY, timeout_s=timeout_s))

    def recorder(self, principal: str = "release") -> Recorder:
        return Recorder(self.client(principal), REPOSITORY)

    def serve(
        self, failpoint: str = "", launcher: tuple[str, ...] = (), options: tuple[str, ...] = ()
    ) -> Daemon:
        """The daemon, with a log of its own; `failpoint` is passed only after `arm`."""
        log = self.root / f"log-{len(list(self.root.glob('log-*')))}"
        environment = {"KEYD_FAILPOINT": f"{failpoint}@{self._armed}"} if failpoint else {}
        command = ["serve", "--config", str(self.config), *_ALLOW_ROOT, *options]
        return Daemon(command, log, environment, launcher)

    def arm(self) -> None:
        """From now on the daemon's failpoint kills it."""
        self._armed.touch()

    def disarm(self) -> None:
        self._armed.unlink(missing_ok=True)

    def keyd(self, *arguments: str | Path) -> Done:
        """Run a command as a user of the profile `default` would."""
        return keyd(*arguments, environment={"KEYD_PROFILE_DIR": str(self.profiles)})

    def copy_to(self, root: Path) -> Installation:
        """The same token, keys and ledger at another place; nothing may run here."""
        copy = Installation(root)
        shutil.copytree(
            self.root, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("log-*", "run")
        )
        copy.configure()
        return copy

    def configure(self, extra: str = "", **settings: str) -> None:
        """Write every file that names a path.

        `settings` replace values of keyd.toml, to which `extra` is added.
        """
        conf = self.softhsm / "softhsm2.conf"
        tokens = self.softhsm / "tokens"
        conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
        token = json.loads((self.root / "token.json").read_text())
        values = {"pin_source": f"file:{self.softhsm}/pin", "calls_in_flight": "256"} | settings
        text = _CONFIG.format(root=self.root, token=token, conf=conf, **values)
        write_whole(self.config, text + extra)
        write_whole(self.policy, _POLICY.format(methods=",".join(f'"{m}"' for m in METHODS)))
        (self.root / "run").mkdir(mode=0o700, exist_ok=True)
        self.profiles.mkdir(exist_ok=True)
        profile = f'target = "unix:{self.socket()}"\nrepository = "{REPOSITORY}"\n'
        write_whole(self.profiles / "default.toml", profile)


_CONFIG = """\
[daemon]
ledger = "{root}/ledger"
anchor = "{root}/anchor"
stop_grace_s = 60.0
[policy]
file = "{root}/policy.toml"
[[listen.unix]]
path = "{root}/run/admin/s"
principal = "admin"
administrator = true
[[listen.unix]]
path = "{root}/run/release/s"
principal = "release"
[[token]]
name = "hsm"
module = "{token[module]}"
uri = "{token[uri]}"
pin_source = "{pin_source}"
environment = {{ SOFTHSM2_CONF = "{conf}" }}
[metrics]
address = "127.0.0.1:0"
[audit]
log_token = "hsm"
checkpoint_interval_s = 86400.0
[limits]
calls_in_flight = {calls_in_flight}
calls_per_s = 100000.0
"""
_POLICY = """\
[[grant]]
name = "everything"
principals = ["unix:admin", "unix:release", "uri:spiffe://test.example/ci"]
methods = [{methods}]
any_repository = true
any_role = true
any_key = true
any_token = true
"""


def install(root: Path) -> Installation:
    """Token, ledger, keys and the repository `demo`, whose first versions are accepted.

    Targets delegate each of TEAMS to a key of that name and all of BINS to the key `bins`.
    """
    made = Installation(root)
    root.mkdir(mode=0o700, exist_ok=True)
    token = create_softhsm(made.softhsm, "test")
    facts = {"module": str(token.module), "uri": token.uri}
    (root / "token.json").write_text(json.dumps(facts))
    made.configure()
    done = keyd("init", "--config", made.config, "--origin", "keyd.test/log")
    assert done.code == 0, done.err
    with made.serve() as daemon, made.client() as client:
        daemon.wait_for("daemon_ready")
        for name in TUF_KEYS:
            client.keys.create(name, TOKEN)
        client.keys.create(OPAQUE_KEY, TOKEN, content="opaque")
        client.repositories.bootstrap(REPOSITORY, ROOT_KEYS, 2)
        _publish_first_versions(made.recorder())
        assert daemon.stop() == 0
    return made


def _publish_first_versions(release: Recorder) -> None:
    root = release.writer.root()
    for key in ROOT_KEYS[:2]:
        release.sign(key, "root", root)
    delegated = {team: (1, [team]) for team in TEAMS} | {name: (1, ["bins"]) for name in BINS}
    release.sign("targets", "targets", release.writer.delegating(1, **delegated))
    release.sign("snapshot", "snapshot", release.writer.snapshot())
    release.sign("timestamp", "timestamp", release.writer.timestamp())
