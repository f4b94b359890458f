"""A SoftHSM token and a keyd on it, set up by the same commands that people type."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYD = (sys.executable, "-P", "-m", "keyd")
_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 20.0

_CONFIG = """\
[daemon]
ledger = "{base}/ledger"
anchor = "{base}/anchor"

[policy]
file = "{base}/policy.toml"

[[listen.unix]]
path = "{base}/run/keyd.sock"
principal = "demo"
administrator = true

[[token]]
name = "softhsm"
module = "{module}"
uri = "{uri}"
pin_source = "file:{base}/softhsm/pin"
environment = {{ SOFTHSM2_CONF = "{base}/softhsm/softhsm2.conf" }}

[audit]
log_token = "softhsm"
"""

_POLICY = """\
[[grant]]
name = "demo"
principals = ["unix:demo"]
methods = [
  "KeyService.CreateKey", "KeyService.GetKey", "KeyService.ListKeys",
  "RepositoryService.BootstrapRepository", "RepositoryService.GetRepositoryState",
  "RepositoryService.ImportMetadata",
  "SigningService.SignMetadata", "SigningService.BatchSignMetadata", "SigningService.SignOpaque",
  "SigningService.CheckMetadata", "SigningService.GetSignature", "TokenService.ListTokens",
  "RotationService.PlanRotation", "RotationService.StartRotation", "RotationService.GetRotation",
  "RotationService.ListRotations", "RotationService.ContinueRotation",
  "RotationService.CancelRotation", "RotationService.GetReceipt",
  "RotationService.UploadSignature", "RotationService.GetFiles",
  "RotationService.ConfirmPublished",
  "OfficerService.EnrolFirstOfficers", "OfficerService.ListOfficers",
  "ProposalService.CreateProposal", "ProposalService.ListProposals", "ProposalService.GetProposal",
  "ProposalService.DecideProposal", "ProposalService.ExecuteProposal",
  "KeyService.MarkKeyCompromised",
  "AuditService.ListEntries", "AuditService.GetCheckpoint",
  "AuditService.GetInclusionProof", "AuditService.GetConsistencyProof",
]
any_repository = true
any_role = true
any_key = true
any_token = true
"""


class SetUpFailed(Exception):
    """A program that the demo needs refused; the text says what it said."""


@dataclass(frozen=True)
class Place:
    """Everything of one demo below one directory with a short name (socket paths are short)."""

    base: Path

    @property
    def config(self) -> Path:
        return self.base / "keyd.toml"

    @property
    def log(self) -> Path:
        return self.base / "keyd.log"

    @property
    def repository(self) -> Path:
        return self.base / "repository"

    @property
    def profiles(self) -> Path:
        return self.base / "profiles"

    @property
    def environment(self) -> dict[str, str]:
        """What finds the client profile `demo` here."""
        return os.environ | {"KEYD_PROFILE_DIR": str(self.profiles)}


def make_token(place: Place) -> str:
    """A token by softhsm-setup, and the daemon's configuration for it; returns the token's URI."""
    command = [str(ROOT / "softhsm-setup" / "init.sh"), "--dir", f"{place.base}/softhsm"]
    said = run(place, [*command, "--label", "demo"])
    facts = dict(
        line.removeprefix("# ").split(": ", 1) for line in said.splitlines() if line[:2] == "# "
    )
    uri, module = facts["token"].strip(), facts["module"].strip()
    place.config.write_text(_CONFIG.format(base=place.base, uri=uri, module=module))
    (place.base / "policy.toml").write_text(_POLICY)
    (place.base / "run").mkdir(mode=0o700)
    place.profiles.mkdir()
    (place.profiles / "demo.toml").write_text(
        f'target = "unix:{place.base}/run/keyd.sock"\nrepository = "demo"\n'
    )
    run(place, [*KEYD, "init", "--config", str(place.config), "--origin", "keyd-demo/log"])
    return uri


def run(place: Place, command: list[str]) -> str:
    """Standard output of a command that must succeed. Raises: SetUpFailed."""
    done = subprocess.run(
        command, env=place.environment, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise SetUpFailed(f"{Path(command[0]).name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Daemon:
    """``keyd serve`` as a child process: entering waits until it is ready, leaving stops it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait for READY=1 of sd_notify(3). Raises: SetUpFailed."""
        address = self._place.base / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            command = [*KEYD, "serve", "--config", str(self._place.config)]
            if os.geteuid() == 0:
                command.append("--allow-root")
            with self._place.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    env=self._place.environment | {"NOTIFY_SOCKET": str(address)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C is for us; we stop the daemon in order.
                    start_new_session=True,
                )
            self._await_ready(self._process, notified)

    def _await_ready(self, process: subprocess.Popen[bytes], notified: socket.socket) -> None:
        ended = os.pidfd_open(process.pid)
        try:
            until = time.monotonic() + _READY_WITHIN_S
            while time.monotonic() < until:
                heard = _readable([notified.fileno(), ended], until - time.monotonic())
                if notified.fileno() in heard and b"READY=1" in notified.recv(4096).split(b"\n"):
                    return
                if heard == [ended]:
                    break
        finally:
            os.close(ended)
        self.stop()
        raise SetUpFailed(f"keyd did not become ready:\n{self._last_words()}")

    def check_alive(self) -> None:
        """Raises: SetUpFailed with its last words if it ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise SetUpFailed(f"keyd ended with status {status}:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self._place.log.read_text().strip().splitlines()[-5:])

    def stop(self) -> None:
        """Let it finish its calls; kill it only if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _readable(descriptors: list[int], wait_s: float) -> list[int]:
    """Those that have something to read in time; select would take none above 1,023."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(max(0.0, wait_s) * 1000)]
