"""Three officers with tokens of their own, who decide with the commands that people type."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.daemon import KEYD, ROOT, Place, SetUpFailed, run

NAMES = ("alice", "bob", "carol")
# What an officer's own tool does: one P-256 key on the token. A process of its own, as the library
# finds its token by the environment.
_MAKE_KEY = """\
import sys
import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
module, label, pin = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=label)
with token.open(rw=True, user_pin=pin) as session:
    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC,
        {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
        local=True,
    )
    parameters.generate_keypair(id=b"1", label="approvals", store=True)
"""


@dataclass(frozen=True)
class Officers:
    """All officers of a demo; their tokens lie below its directory."""

    place: Place

    def enrol(self) -> None:
        """Make tokens and keys, and enrol all with the rule that two of them have to agree."""
        for name in NAMES:
            self._make_token(name)
        people = "".join(
            f'[[officer]]\nname = "{name}"\npublic_key = "{name}.pem"\nkind = "pkcs11"\n'
            for name in NAMES
        )
        file = self._folder / "officers.toml"
        file.write_text(f"threshold = 2\n{people}")
        self._keyd("", "officer", "genesis", str(file), "--confirm", file.name, "-p", "demo")

    def approve(self, proposal: str, by: Sequence[str]) -> None:
        """Each looks at the proposal and signs with their own key."""
        for name in by:
            arguments = ["proposal", "approve", proposal, "--officer", name, "-p", "demo"]
            self._keyd(name, *arguments, *self._key(name), "--confirm", proposal)

    @property
    def _folder(self) -> Path:
        return self.place.base / "officers"

    def _make_token(self, name: str) -> None:
        folder = self._folder / name
        command = [str(ROOT / "softhsm-setup" / "init.sh"), "--dir", str(folder), "--label", name]
        said = run(self.place, command)
        facts = dict(
            line.removeprefix("# ").split(": ", 1) for line in said.splitlines() if line[:2] == "# "
        )
        (folder / "uri").write_text(facts["token"].strip())
        (folder / "module").write_text(facts["module"].strip())
        arguments = [facts["module"].strip(), name, self._pin(name)]
        self._call([sys.executable, "-c", _MAKE_KEY, *arguments], name)
        public = str(self._folder / f"{name}.pem")
        self._keyd(name, "officer", "key", *self._key(name), "--out", public)

    def _key(self, name: str) -> list[str]:
        folder = self._folder / name
        uri, module = (folder / "uri").read_text(), (folder / "module").read_text()
        return ["--key", uri, "--module", module, "--pin-fd", "0"]

    def _pin(self, name: str) -> str:
        return (self._folder / name / "pin").read_text().strip()

    def _keyd(self, name: str, *arguments: str) -> None:
        self._call([*KEYD, *arguments], name)

    def _call(self, command: Sequence[str], name: str) -> None:
        """Run it with the officer's token in reach and the PIN on standard input."""
        environment = dict(self.place.environment)
        if name:
            environment["SOFTHSM2_CONF"] = str(self._folder / name / "softhsm2.conf")
        done = subprocess.run(
            command,
            env=os.environ | environment,
            input=self._pin(name) if name else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise SetUpFailed(f"{name or 'keyd'}: {done.stderr.strip() or done.stdout.strip()}")
