"""``python -m demo.rotation``: keys change hands on a live repository; ends with ``… ok``."""

from __future__ import annotations

import os
import sys

from demo.__main__ import ROLES, TEAM
from demo.daemon import KEYD, Daemon, Place, make_token, run
from demo.ending import told
from demo.officers import Officers
from demo.rotating import Rotating, Stopped
from demo.rotation_refusals import show_refusals
from demo.telling import Story, expect
from demo.web import over_http
from keyd_client import Client, KeydClientError, KeydRepository
from keyd_client.client import shared_client
from keyd_client.messages import NewKey, RoleChange

_ROOT_ROTATIONS = 20
# The number of the first new root key.
_FIRST = 4


def main() -> int:
    """Tell the story below; returns the exit code."""
    return told("demo-rotation", _tell)


def _tell(place: Place) -> str:
    story = Story()
    with story.step("A token, a daemon, and a TUF repository with a delegated role"):
        make_token(place)
        os.environ["KEYD_PROFILE_DIR"] = str(place.profiles)
        daemon = Daemon(place)
        daemon.start()
    try:
        with shared_client("demo") as client, over_http(place.repository) as url:
            return _with_daemon(story, place, client, url)
    except KeydClientError:
        daemon.check_alive()
        raise
    finally:
        daemon.stop()


def _with_daemon(story: Story, place: Place, client: Client, url: str) -> str:
    for keys in (*ROLES.values(), TEAM):
        for name in keys.keys:
            client.keys.create(name, "softhsm")
    repository = KeydRepository(place.repository, "demo")
    repository.initialize(ROLES)
    repository.add_targets({"hello.txt": b"signed by a token\n"})
    repository.delegate("team", TEAM, ["team/*"])
    repository.add_targets({"team/tool.txt": b"delegated\n"}, "team")
    repository.publish()
    rotating = Rotating(story, client, repository, Stopped(place, url))
    rotating.clients.stop_one("before any rotation")
    _online(story, rotating)
    _stolen(story, rotating)
    _many(story, rotating)
    with story.step("What must not happen is refused, with reasons"):
        refusals = show_refusals(story, rotating)
    _root(story, rotating, Officers(place))
    with story.step("The repository is edited as before, and the log and the ledger verify"):
        repository.add_targets({"hello.txt": b"still here\n"})
        repository.publish()
        rotating.clients.catch_up(hello=b"still here\n")
        run(place, [*KEYD, "audit", "verify", "--profile", "demo"])
        verified = run(place, [*KEYD, "ledger", "verify", "--config", str(place.config)])
        story.say(verified.strip().splitlines()[-1])
    arrived = rotating.clients.arrivals
    return f"{rotating.done} rotations, {arrived} clients caught up, {refusals} refusals"


def _online(story: Story, rotating: Rotating) -> None:
    with story.step("The timestamp key is replaced"):
        rotating.carry_out("TIMESTAMP", [replaced("timestamp", "timestamp-1", "timestamp-2")])
    with story.step("The top-level targets key is replaced"):
        rotating.carry_out("TARGETS", [replaced("targets", "targets-1", "targets-2")])


def _stolen(story: Story, rotating: Rotating) -> None:
    with story.step("The delegated key is stolen: it stops signing at once, and is replaced"):
        rotating.carry_out(
            "EMERGENCY",
            [replaced("team", "team-1", "team-2")],
            compromised=["team-1"],
            reason="the laptop with its credentials is gone",
        )


def _root(story: Story, rotating: Rotating, officers: Officers) -> None:
    with story.step("Three officers are enrolled, each with a token of their own; two must agree"):
        officers.enrol()
        rotating.officers = officers
        listed = rotating.client.officers.list().officers
        story.say(f"{', '.join(officer.name for officer in listed)}: 2 of 3")
    with story.step("Root changes members and threshold, approved by 2 of 3 officers"):
        newest = f"root-{_FIRST + _ROOT_ROTATIONS}"
        leaving = [f"root-{_FIRST + _ROOT_ROTATIONS - number}" for number in (2, 3)]
        change = RoleChange(role="root", remove=leaving, threshold=3)
        change.add.append(NewKey(name=newest, token="softhsm"))
        change.add.extend(rotating.elsewhere(holder) for holder in ("dave", "erin"))
        rotating.carry_out("ROOT", [change])


def _many(story: Story, rotating: Rotating) -> None:
    with story.step(f"{_ROOT_ROTATIONS} root rotations in a row"):
        for number in range(_FIRST, _FIRST + _ROOT_ROTATIONS):
            change = replaced("root", f"root-{number - 3}", f"root-{number}")
            rotating.carry_out("ROOT", [change], quiet=True)
        rotating.clients.catch_up()
        expect(rotating.root_version() >= _ROOT_ROTATIONS, "roots are missing")
        story.say(f"root is at version {rotating.root_version()}")


def replaced(role: str, old: str, new: str) -> RoleChange:
    """One key for another."""
    return RoleChange(role=role, remove=[old], add=[NewKey(name=new, token="softhsm")])


if __name__ == "__main__":
    sys.exit(main())
