"""Three attacks on the repository, each refused by keyd, and one by a stock client as well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater

from demo.telling import Story, Unexpected, expect
from keyd_client import Client, KeydClientError, KeydRepository, KeydSigner


class Attacks:
    """What somebody would do who has the files, but not the token."""

    def __init__(self, story: Story, client: Client, repository: KeydRepository) -> None:
        self._story = story
        self._client = client
        self._repository = repository

    def forged(self, timestamp: Path, updater: Updater) -> None:
        """Sign with a key of one's own under the real key's id: for keyd, and for a client."""
        targets = self._next("targets")
        del targets.signed.targets["hello.txt"]
        _sign_under(self._listed("targets"), targets)
        (outcome,) = self._client.repositories.import_metadata([("targets", targets.to_bytes())])
        expect(not outcome.recorded, "keyd took in forged metadata")
        first = outcome.findings[0]
        self._refused("forged targets", first.reason, first.message)
        expect(first.reason == "SIGNATURES_MISSING", f"forged targets refused by {first.reason}")

        genuine = timestamp.read_bytes()
        forged = self._next("timestamp")
        _sign_under(self._listed("timestamp"), forged)
        timestamp.write_bytes(forged.to_bytes())
        try:
            updater.refresh()
        except RepositoryError as error:
            self._refused("forged timestamp", type(error).__name__, f"{error} (stock client)")
        else:
            raise Unexpected("a stock client took a forged timestamp")
        finally:
            timestamp.write_bytes(genuine)

    def rolled_back(self) -> None:
        """Ask for a snapshot that lists targets as they were before."""
        snapshot = self._next("snapshot")
        snapshot.signed.meta["targets.json"].version -= 1
        self._sign("rolled-back snapshot", snapshot, "snapshot", "SNAPSHOT_ENTRY_DECREASED")

    def double_version(self) -> None:
        """Ask for other content under a version that is signed already."""
        targets = self._repository.open("targets")
        targets.signed.expires += timedelta(days=1)
        reason = "VERSION_ALREADY_SIGNED_DIFFERENTLY"
        self._sign("double version", targets, "targets", reason)

    def _next(self, role: str) -> Metadata[Any]:
        metadata = self._repository.open(role)
        metadata.signed.version += 1
        metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=12)
        return metadata

    def _listed(self, role: str) -> Key:
        root = self._repository.root()
        return root.get_key(root.roles[role].keyids[0])

    def _sign(self, name: str, metadata: Metadata[Any], role: str, reason: str) -> None:
        signer = KeydSigner("demo", f"{role}-1", self._listed(role)).for_role("demo", role)
        try:
            signer.sign(metadata.signed_bytes)
        except KeydClientError as error:
            self._refused(name, error.reason, error.message)
            expect(error.reason == reason, f"expected {reason}, got {error}")
        else:
            raise Unexpected(f"keyd signed a {name}")

    def _refused(self, name: str, reason: str, message: str) -> None:
        self._story.say(f"{name} refused: {reason}")
        self._story.say(f"  {message}")


def _sign_under(real: Key, metadata: Metadata[Any]) -> None:
    """A valid signature by the wrong key, filed under the right key's id."""
    metadata.sign(CryptoSigner.generate_ecdsa(keyid=real.keyid))
