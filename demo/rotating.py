"""Carrying rotations out as a publisher does, watched by clients that stopped long ago."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from demo.daemon import Place
from demo.officers import Officers
from demo.telling import Story, Unexpected, expect
from demo.web import download, new_client
from keyd_client import Client, KeydClientError, KeydRepository, KeydSigner
from keyd_client.errors import ApprovalRequired
from keyd_client.messages import NewKey, RoleChange, Rotation, RotationChange, RotationKind, label


@dataclass
class Stopped:
    """Stock clients that stopped at earlier states; each arrival starts from what it had then."""

    place: Place
    url: str
    homes: dict[str, Path] = field(default_factory=dict)
    arrivals: int = 0

    def stop_one(self, when: str) -> None:
        """A client that knows the state as it is now, and nothing that comes later."""
        home = self.place.base / "clients" / str(len(self.homes))
        self._visit(home, b"signed by a token\n")
        self.homes[when] = home

    def catch_up(self, hello: bytes = b"signed by a token\n") -> int:
        """Every stopped client, and one with nothing but root 1, arrives at the present state."""
        for home in (*self.homes.values(), None):
            working = self.place.base / "clients" / "now"
            shutil.rmtree(working, ignore_errors=True)
            if home is not None:
                shutil.copytree(home, working, symlinks=True)
            self._visit(working, hello)
            self.arrivals += 1
        return len(self.homes) + 1

    def _visit(self, home: Path, hello: bytes) -> None:
        updater = new_client(self.url, self.place.repository, home)
        expect(download(updater, "hello.txt") == hello, "a client got another hello.txt")
        expect(download(updater, "team/tool.txt") == b"delegated\n", "a client got another tool")


class Rotating:
    """Plans, starts and carries out; signs for keys that are held elsewhere."""

    def __init__(
        self, story: Story, client: Client, repository: KeydRepository, clients: Stopped
    ) -> None:
        self.story = story
        self.client = client
        self.repository = repository
        self.clients = clients
        self.done = 0
        self.officers: Officers | None = None
        self._held: dict[str, CryptoSigner] = {}

    def change(
        self,
        kind: str,
        roles: Sequence[RoleChange],
        *,
        compromised: Sequence[str] = (),
        reason: str = "",
    ) -> RotationChange:
        return RotationChange(
            kind=RotationKind.Value(f"ROTATION_KIND_{kind}"),
            repository="demo",
            roles=roles,
            compromised=compromised,
            reason=reason,
        )

    def elsewhere(self, holder: str) -> NewKey:
        """A key that a person holds: the daemon knows its public half only."""
        signer = CryptoSigner.generate_ecdsa()
        self._held[signer.public_key.keyid] = signer
        public = json.dumps(signer.public_key.to_dict())
        return NewKey(name=f"token of {holder}", holder=holder, tuf_key_json=public)

    def carry_out(
        self,
        kind: str,
        roles: Sequence[RoleChange],
        *,
        compromised: Sequence[str] = (),
        reason: str = "",
        quiet: bool = False,
    ) -> None:
        """From the plan to clients that caught up."""
        change = self.change(kind, roles, compromised=compromised, reason=reason)
        answer = self.client.rotations.plan(change)
        plan = answer.plan
        if not quiet:
            for line in plan.lines:
                self.story.say(line)
            for one in answer.exposed:
                self.story.say(f"{one.key} signed {one.role} {one.version} (entry {one.log_index})")
        started = self._start(change, plan.digest)
        for key in compromised:
            self._refuse_to_sign_with(key)
        self.go_on(started.name, quiet)
        self.repository.apply(started.name)
        self.done += 1
        if not quiet:
            count = self.clients.catch_up()
            self.story.say(f"{count} stock clients that stopped at earlier states caught up")
            self.clients.stop_one(f"after {started.name}")

    def go_on(self, name: str, quiet: bool) -> None:
        """Until it is ready, with signatures made elsewhere where some are wanted."""
        went = self.client.rotations.go_on(name)
        for proposal in went.rotation.proposals:
            self._approve(proposal, ["bob", "carol"])
            went = self.client.rotations.go_on(name)
        if label(went.rotation, "state") == "WAITING":
            if not quiet:
                self.story.say(f"waits: {went.rotation.next}")
            self._sign_elsewhere(name, quiet)
            went = self.client.rotations.go_on(name)
        expect(label(went.rotation, "state") == "READY", f"it is not ready: {went.rotation.next}")
        if not quiet:
            for line in went.done:
                self.story.say(f"  {line}")

    def _start(self, change: RotationChange, digest: bytes) -> Rotation:
        try:
            return self.client.rotations.start(change, digest)
        except ApprovalRequired as wanted:
            self.story.say(f"the plan needs officers: {wanted.reason}")
            self._approve(wanted.details["proposal"], ["alice", "bob"])
            return self.client.rotations.start(change, digest)

    def _approve(self, proposal: str, by: Sequence[str]) -> None:
        if self.officers is None:
            raise Unexpected("nobody can approve yet")
        shown = self.client.proposals.get(proposal).proposal
        self.officers.approve(proposal, by)
        self.story.say(f"approved by {' and '.join(by)}: {shown.words}")

    def _sign_elsewhere(self, name: str, quiet: bool) -> None:
        """What somebody does with a token of their own: payload and receipt in, signature out."""
        receipt = self.client.rotations.receipt(name)
        for keyid in set(receipt.wanted) & set(self._held):
            signature = bytes.fromhex(self._held[keyid].sign(receipt.payload).signature)
            self.client.rotations.upload(name, receipt.receipt, keyid, signature)
            if not quiet:
                self.story.say(f"signed elsewhere by {receipt.wanted[keyid]}, handed in, counted")

    def _refuse_to_sign_with(self, key: str) -> None:
        """A stolen key signs no more, whoever asks."""
        metadata = self.repository.open("team")
        metadata.signed.version += 1
        metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        _, public = KeydSigner.import_("demo", key)
        signer = KeydSigner("demo", key, public).for_role("demo", "team")
        try:
            signer.sign(metadata.signed_bytes)
        except KeydClientError as refusal:
            self.story.say(f"asked to sign once more: {refusal.reason}")
        else:
            raise Unexpected(f"{key} signed after it was stolen")

    def root_version(self) -> int:
        """The newest root that is published."""
        root: Metadata[Root] = self.repository.open("root")
        return root.signed.version
