"""``python -m demo``: prints each step; the last line begins ``demo: ok``."""

from __future__ import annotations

import json
import os
import sys

from demo.daemon import KEYD, Daemon, Place, make_token, run
from demo.ending import told
from demo.refusals import Attacks
from demo.telling import Story, expect
from demo.web import download, new_client, over_http
from keyd_client import Client, KeydClientError, KeydRepository, RoleKeys
from keyd_client.client import shared_client
from keyd_client.messages import label

ROLES = {
    "root": RoleKeys(2, ["root-1", "root-2", "root-3"]),
    "targets": RoleKeys(1, ["targets-1"]),
    "snapshot": RoleKeys(1, ["snapshot-1"]),
    "timestamp": RoleKeys(1, ["timestamp-1"]),
}
TEAM = RoleKeys(1, ["team-1"])


def main() -> int:
    """Tell the story below; returns the exit code."""
    return told("demo", _tell)


def _tell(place: Place) -> str:
    story = Story()
    with story.step("A SoftHSM token is made"):
        story.say(make_token(place))
    os.environ["KEYD_PROFILE_DIR"] = str(place.profiles)
    daemon = Daemon(place)
    try:
        with story.step("keyd starts, with one worker process for the token"):
            daemon.start()
            with Client("demo") as client:
                token = client.tokens.list()[0]
                state = label(token, "state")
                story.say(f"{client.profile.target}, token {token.name} ({token.model}) {state}")
                expect(state == "ONLINE", f"the token is {state}: {token.detail}")
        # The one that repository and signers use as well: closed before the daemon stops.
        with shared_client("demo") as client:
            return _with_daemon(story, place, client)
    except KeydClientError:
        daemon.check_alive()
        raise
    finally:
        daemon.stop()


def _with_daemon(story: Story, place: Place, client: Client) -> str:
    with story.step("Keys are generated on the token; their private halves never leave it"):
        names = [name for keys in (*ROLES.values(), TEAM) for name in keys.keys]
        keys = [client.keys.create(name, "softhsm") for name in names]
        story.say(f"{len(keys)} keys, {keys[0].scheme}: {' '.join(names)}")
    repository = KeydRepository(place.repository, "demo")
    with story.step("A TUF repository is built with python-tuf, its signatures by keyd"):
        signatures = _build(story, place, client, repository)
    with over_http(place.repository) as url:
        with story.step("A stock tuf.ngclient.Updater downloads over HTTP"):
            updater = new_client(url, place.repository, place.base / "client")
            for path in ("hello.txt", "team/tool.txt"):
                story.say(f"{path}: {download(updater, path)!r}")
        with story.step("What must not happen is refused, with reasons"):
            attacks = Attacks(story, client, repository)
            attacks.forged(
                place.repository / "metadata" / "timestamp.json",
                new_client(url, place.repository, place.base / "client"),
            )
            attacks.rolled_back()
            attacks.double_version()
        with story.step("The repository still works, and the audit log proves itself"):
            updater = new_client(url, place.repository, place.base / "client")
            story.say(f"hello.txt: {download(updater, 'hello.txt')!r}")
            verified = run(place, [*KEYD, "audit", "verify", "--profile", "demo"])
            for line in verified.strip().splitlines():
                story.say(line)
    return f"{signatures} signatures by {len(keys)} keys on the token"


def _build(story: Story, place: Place, client: Client, repository: KeydRepository) -> int:
    repository.initialize(ROLES)
    repository.add_targets({"hello.txt": b"signed by a token\n"})
    repository.delegate("team", TEAM, ["team/*"])
    repository.add_targets({"team/tool.txt": b"delegated\n"}, "team")
    repository.publish()
    signatures: list[str] = []
    for path in sorted((place.repository / "metadata").iterdir()):
        made = [entry["sig"] for entry in json.loads(path.read_bytes())["signatures"]]
        story.say(f"{path.name}: {len(made)} signature{'s' * (len(made) > 1)}")
        signatures += made
    recorded = _recorded_signatures(client)
    expect(set(signatures) <= recorded, "a published signature is not in the audit log")
    story.say(f"all {len(signatures)} published signatures stand in keyd's audit log")
    return len(recorded)


def _recorded_signatures(client: Client) -> set[str]:
    entries = (json.loads(entry.data) for entry in client.audit.entries())
    return {e["signature"] for e in entries if e["event"] == "signature_completed"}


if __name__ == "__main__":
    sys.exit(main())
