"""No payload of one role or repository is ever signed as another's, whoever asks with which key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyd.domain import canonical
from keyd_client import Client
from keyd_client.errors import KeydClientError
from tests.authors import Signed, Writer
from tests.daemon import ROOT_KEYS, TOKEN, Installation
from tests.recording import Recorder, check_entries, check_receipts, entries_of
from tests.tally import Promise, tallied

OTHER = "other"
TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
# Role by role, the keys that may sign for it.
HOLDERS = {
    "root": ROOT_KEYS,
    "targets": ("targets",),
    "snapshot": ("snapshot",),
    "timestamp": ("timestamp",),
    "team-a": ("team-a",),
    "bin-00": ("bins",),
    "bin-01": ("bins",),
}


@dataclass(frozen=True)
class House:
    """One repository with the next payload of each role; its keys have names of their own."""

    recorder: Recorder
    prefix: str
    payloads: Mapping[str, bytes]
    change: bytes

    @property
    def name(self) -> str:
        return self.recorder.repository

    def keys(self, role: str) -> list[str]:
        return [self.prefix + key for key in HOLDERS[role]]


def next_payloads(writer: Writer, prefix: str) -> dict[str, Signed]:
    """Version 2 of the top-level roles, version 1 of the others; each targets role has a target."""
    file = {"length": 1, "hashes": {"sha256": "0" * 64}}
    delegated = delegations(prefix)
    delegating = writer.delegating(2, **delegated)
    return {
        "root": first_root(writer, prefix) | writer.common("root", 2, days=365),
        "targets": delegating | {"targets": {"release": file}},
        "snapshot": writer.snapshot(2),
        "timestamp": writer.timestamp(2),
        **{role: writer.targets(1, targets={f"{role}/file": file}) for role in delegated},
    }


def first_root(writer: Writer, prefix: str) -> Signed:
    return writer.root(
        1,
        root=(2, [prefix + key for key in ROOT_KEYS]),
        targets=(1, [f"{prefix}targets"]),
        snapshot=(1, [f"{prefix}snapshot"]),
        timestamp=(1, [f"{prefix}timestamp"]),
    )


def delegations(prefix: str) -> dict[str, tuple[int, list[str]]]:
    return {
        role: (1, [prefix + key for key in keys])
        for role, keys in HOLDERS.items()
        if role not in TOP_LEVEL
    }


def other_repository(installation: Installation) -> House:
    """A second repository on the same daemon and token."""
    prefix = "other-"
    with installation.client() as admin:
        for key in {key for keys in HOLDERS.values() for key in keys}:
            admin.keys.create(prefix + key, TOKEN)
        admin.repositories.bootstrap(OTHER, [prefix + key for key in ROOT_KEYS], 2)
    recorder = Recorder(installation.client("release"), OTHER)
    writer = recorder.writer
    root = first_root(writer, prefix)
    for key in ROOT_KEYS[:2]:
        recorder.sign(prefix + key, "root", root)
    recorder.sign(f"{prefix}targets", "targets", writer.delegating(1, **delegations(prefix)))
    recorder.sign(f"{prefix}snapshot", "snapshot", writer.snapshot())
    recorder.sign(f"{prefix}timestamp", "timestamp", writer.timestamp())
    return house(recorder, prefix)


def house(recorder: Recorder, prefix: str = "") -> House:
    payloads = next_payloads(recorder.writer, prefix)
    change = recorder.change_digest(payloads["root"])
    encoded = {role: canonical.encode(signed) for role, signed in payloads.items()}
    return House(recorder, prefix, encoded, change)


def test_only_the_right_key_signs_the_right_payload_for_the_right_role(
    installation: Installation,
) -> None:
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        demo = house(installation.recorder())
        other = other_repository(installation)
        with installation.client() as client:
            before = intended(client)
            attempts = try_everything_wrong(demo, other) + try_everything_wrong(other, demo)
            assert attempts > 1000
            with tallied(Promise.DENY_BY_DEFAULT, "payload signed as another role's") as tally:
                tally.injected(attempts)
                assert intended(client) == before, "a refused payload reserved something"
            for each in (demo, other):
                sign_everything_right(each)
            assert intended(client) == before + 2 * sum(map(len, HOLDERS.values()))
            receipts = [*demo.recorder.receipts, *other.recorder.receipts]
            check_receipts(client, receipts)
            check_entries(entries_of(client), receipts)
        assert daemon.stop() == 0


def try_everything_wrong(asked: House, neighbour: House) -> int:
    """Every payload of both houses as every role of one by every key, less what is right."""
    keys = [key for each in (asked, neighbour) for role in HOLDERS for key in each.keys(role)]
    attempts = 0
    for written_by in (asked, neighbour):
        for payload_of, payload in written_by.payloads.items():
            for role in HOLDERS:
                for key in set(keys):
                    # Only a root names keys: other payloads of the two houses are alike.
                    foreign = role == "root" and written_by is neighbour
                    if payload_of == role and key in asked.keys(role) and not foreign:
                        continue
                    try:
                        asked.recorder.sign(key, role, payload, asked.change)
                    except KeydClientError:
                        attempts += 1
                    else:
                        raise AssertionError(
                            f"{payload_of} of {written_by.name} was signed as "
                            f"{asked.name}/{role} by {key}"
                        )
    return attempts


def sign_everything_right(asked: House) -> None:
    # A new root first: nothing else depends on what the others changed.
    for role, payload in asked.payloads.items():
        for key in asked.keys(role):
            asked.recorder.sign(key, role, payload, asked.change)


def intended(client: Client) -> int:
    return sum(entry["event"] == "signature_intended" for entry in entries_of(client))
