"""Officers with a SoftHSM token each, and the commands that they type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemon import Installation
from tests.fleets import P256, PATIENCE_S, config_for, running
from tests.running import Done, keyd
from tests.softhsm import SoftHSMToken, create_softhsm


@dataclass(frozen=True)
class Person:
    """Somebody with a token of their own, in a directory of their own."""

    name: str
    token: SoftHSMToken

    @property
    def folder(self) -> Path:
        return self.token.directory.parent

    @property
    def pem(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> tuple[str, ...]:
        """Options that name this person's key; the PIN comes on stdin."""
        return ("--key", self.token.uri, "--module", str(self.token.module), "--pin-fd", "0")

    def keyd(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> Done:
        """Run a command at this person's desk and answer its question for the PIN."""
        own = {**self.token.env, **(environment or {})}
        return keyd(*arguments, environment=own, stdin=f"{self.token.pin}\n")


def new_person(folder: Path, name: str) -> Person:
    """A token with one P-256 key, whose public half is written to `pem`."""
    place = folder / name
    place.mkdir(mode=0o700, parents=True)
    person = Person(name, create_softhsm(place / "softhsm", name))
    with running(config_for(person.token)) as fleet:
        fleet.get(name).generate(P256, b"\x01", name, PATIENCE_S)
    done = person.keyd("officer", "key", *person.key, "--out", person.pem)
    assert done.code == 0, done.err
    return person


@dataclass(frozen=True)
class Desk:
    """The daemon's two callers, and its officers by name."""

    installation: Installation
    people: dict[str, Person]

    def profiles(self, principal: str) -> dict[str, str]:
        folder = self.installation.root / f"profiles-{principal}"
        folder.mkdir(exist_ok=True)
        target = f'target = "unix:{self.installation.socket(principal)}"\nrepository = "demo"\n'
        (folder / "default.toml").write_text(target)
        return {"KEYD_PROFILE_DIR": str(folder)}

    def keyd(self, *arguments: str | Path, principal: str = "admin") -> Done:
        return keyd(*arguments, environment=self.profiles(principal))

    def json(self, *arguments: str | Path, principal: str = "admin") -> Any:
        done = self.keyd(*arguments, "--json", principal=principal)
        assert done.code == 0, done.err
        return done.json

    def genesis(self, threshold: int = 2) -> Any:
        """Everybody, with carol calling as "unix:release"."""
        lines = [f"threshold = {threshold}"]
        for person in self.people.values():
            lines += ["[[officer]]", f'name = "{person.name}"', f'public_key = "{person.pem}"']
            lines += ['principals = ["unix:release"]'] if person.name == "carol" else []
        file = self.installation.root / "officers.toml"
        file.write_text("\n".join(lines))
        return self.json("officer", "genesis", file, "--confirm", "officers.toml")

    def decide(self, verb: str, name: str, proposal: str, *more: str | Path) -> Done:
        """One officer decides online, with their own token."""
        person = self.people[name]
        said = ("--officer", name, *person.key, "--confirm", proposal, "--json")
        return person.keyd(
            "proposal", verb, proposal, *said, *more, environment=self.profiles("admin")
        )

    def approve(self, name: str, proposal: str) -> Any:
        done = self.decide("approve", name, proposal)
        assert done.code == 0, done.err
        return done.json["proposal"]
