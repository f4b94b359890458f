"""A production-like installation that tests run `keyd serve` on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from keyd.domain.methods import MAY_TOUCH, METHODS, Resource
from keyd_client import Client
from keyd_client.profile import Profile
from tests.running import Daemon, Done, keyd
from tests.softhsm import SoftHSMToken

ROOT = ["--allow-root"] if os.geteuid() == 0 else []
GRANT = """
[[grant]]
name = "{name}"
principals = ["unix:{principal}"]
methods = [{methods}]
{scope}
"""
EVERYTHING = (
    "TokenService.ListTokens",
    "TokenService.UnlockToken",
    "TokenService.QuarantineToken",
    "TokenService.ReleaseToken",
    "KeyService.CreateKey",
    "KeyService.ListKeys",
    "AuditService.ListEntries",
    "AuditService.GetCheckpoint",
    "SigningService.SignOpaque",
    "SigningService.CheckMetadata",
)


def grant(name: str, principal: str, *methods: str) -> str:
    listed = ", ".join(f'"{method}"' for method in methods)
    touched = frozenset[Resource]().union(
        *(METHODS[method] | MAY_TOUCH.get(method, frozenset()) for method in methods)
    )
    scope = "\n".join(f"any_{resource} = true" for resource in touched)
    return GRANT.format(name=name, principal=principal, methods=listed, scope=scope)


@dataclass
class Site:
    """A production-like installation: `keyd init`, one SoftHSM token, one socket."""

    folder: Path
    socket: Path
    token: SoftHSMToken

    @property
    def config(self) -> Path:
        return self.folder / "keyd.toml"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.toml"

    def configure(self, **changes: str) -> None:
        """Write keyd.toml; `changes` replace the text of a setting."""
        settings = {
            "ledger": self.folder / "ledger",
            "anchor": self.folder / "anchor",
            "module": self.token.module,
            "uri": self.token.uri,
            "pin_source": f"file:{self.token.pin_file}",
            "start_wait_s": "20.0",
            "metrics": "",
            "log_token": "hsm",
        } | changes
        self.config.write_text(
            f"""
[daemon]
ledger = "{settings["ledger"]}"
anchor = "{settings["anchor"]}"
start_wait_s = {settings["start_wait_s"]}
[policy]
file = "{self.policy}"
[[listen.unix]]
path = "{self.socket}"
principal = "admin"
administrator = true
[metrics]
address = "{settings["metrics"]}"
[[token]]
name = "hsm"
module = "{settings["module"]}"
uri = "{settings["uri"]}"
pin_source = "{settings["pin_source"]}"
environment = {{ SOFTHSM2_CONF = "{self.token.conf}" }}
[audit]
log_token = "{settings["log_token"]}"
checkpoint_interval_s = 1.0
"""
        )
        self.config.chmod(0o600)

    def allow(self, *methods: str) -> None:
        """Write a policy that grants the administrator these methods."""
        self.policy.write_text(grant("admin", "admin", *methods))
        self.policy.chmod(0o600)

    def serve(self, *arguments: str, environment: dict[str, str] | None = None) -> Daemon:
        command = ["serve", "--config", str(self.config), *ROOT, *arguments]
        return Daemon(command, self.folder / "log", environment or {})

    def fails(self, *arguments: str) -> Done:
        return keyd("serve", "--config", self.config, *ROOT, *arguments)

    def client(self) -> Client:
        return Client(Profile(f"unix:{self.socket}", timeout_s=20.0))

    def entries(self) -> list[dict[str, object]]:
        with self.client() as client:
            return [json.loads(entry.data) for entry in client.audit.entries()]


def make_site(folder: Path, socket: Path, token: SoftHSMToken) -> Site:
    """Configuration, policy and ledger in an existing folder; the daemon is not started."""
    made = Site(folder, socket, token)
    made.configure()
    made.allow(*EVERYTHING)
    done = keyd("init", "--config", made.config, "--origin", "test.example/log")
    assert done.code == 0, done.err
    return made
