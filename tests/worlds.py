"""A whole world for use-case tests: a real ledger, software tokens, a policy, and a repository."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyd.domain import canonical, public_keys
from keyd.domain.keys import Content, Key, KeySpec, Scheme
from keyd.domain.methods import METHODS
from keyd.domain.policy import Caller, Grant, Policy
from keyd.domain.records import Repository
from keyd.domain.tokens import SignItem
from keyd.ledger.create import create_ledger
from keyd.ledger.opening import open_ledger as open_sqlite
from keyd.ledger.sqlite import SqliteLedger
from keyd.services.check import check
from keyd.services.denials import DenialLog
from keyd.services.key_creation import create_key
from keyd.services.pipeline import Pipeline
from keyd.services.reading import SigningRequest
from keyd.services.released import Released
from keyd.services.repositories import bootstrap
from keyd.services.sign import Outcome, sign
from keyd.services.world import World
from tests.authors import Signed, Writer
from tests.fakes import FakeTokens, SoftwareToken, TestClock

ADMIN = Caller("unix:admin", local_admin=True)
SIGNER = Caller("unix:signer", local_admin=False)
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class FixedPolicy:
    """A policy that does not change."""

    policy: Policy

    def current(self) -> Policy:
        return self.policy


def allow_all(*principals: str) -> Policy:
    """Everything that a policy can allow, for these principals."""
    grant = Grant(
        name="everything",
        line=1,
        principals=frozenset(principals),
        methods=frozenset(METHODS),
        any_repository=True,
        any_role=True,
        any_key=True,
        any_token=True,
    )
    return Policy("0" * 64, (grant,))


def open_world(
    directory: Path,
    *,
    clock: TestClock | None = None,
    tokens: FakeTokens | None = None,
    policy: Policy | None = None,
    development: bool = False,
    opaque_may_sign_tuf: bool = False,
) -> World:
    """Open the ledger below `directory`, made on first use, with one software token "soft"."""
    clock = clock or TestClock()
    ledger = open_ledger(directory, clock, development=development)
    return World(
        ledger=ledger,
        tokens=tokens or FakeTokens(SoftwareToken("soft", clock)),
        clock=clock,
        policy=FixedPolicy(policy or allow_all(ADMIN.principal, SIGNER.principal)),
        denials=DenialLog(ledger, clock),
        opaque_may_sign_tuf=opaque_may_sign_tuf,
    )


def make_key(
    world: World,
    name: str,
    *,
    scheme: Scheme = Scheme.ED25519,
    content: Content = Content.TUF,
    token: str = "soft",
) -> Key:
    """Generate and register a key."""
    return create_key(
        world,
        ADMIN,
        name=name,
        token=token,
        spec=KeySpec(scheme),
        content=content,
        timeout_s=TIMEOUT_S,
    )


class Author(Writer):
    """Writes payloads of one repository and has them signed; knows its keys by name."""

    def __init__(self, world: World, repository: str, keys: Mapping[str, Key]) -> None:
        super().__init__(world.clock.now, self._tuf_key_of)
        self.world = world
        self.repository = repository
        self.keys = dict(keys)

    def _tuf_key_of(self, name: str) -> tuple[str, Signed]:
        key = self.keys[name]
        return public_keys.tuf_key(key.public_der, key.scheme)

    def request(self, key: str, role: str, signed: Signed | bytes, **fields: str) -> SigningRequest:
        """A request that names everything."""
        payload = signed if isinstance(signed, bytes) else canonical.encode(signed)
        return SigningRequest(
            key=key, payload=payload, repository=self.repository, role=role, **fields
        )

    def sign(
        self, key: str, role: str, signed: Signed | bytes, caller: Caller = SIGNER, **fields: str
    ) -> Released:
        """Have one key sign. Raises what `sign` raises."""
        request = self.request(key, role, signed, **fields)
        return sign(self.world, caller, request, timeout_s=TIMEOUT_S)

    def change_digest(self, signed: Signed) -> str:
        """The digest by which a root's changes are confirmed."""
        checked = check(self.world, SIGNER, self.request("", "root", signed))
        return checked.change_digest

    def publish_root(self, signed: Signed, *keys: str) -> Released:
        """Sign a root with several keys, confirming its changes."""
        confirmed = self.change_digest(signed) if signed["version"] > 1 else ""
        done = [self.sign(key, "root", signed, confirmed_change=confirmed) for key in keys]
        return done[-1]

    def published(self, signed: Signed, *keys: str) -> bytes:
        """The file that everybody can download, its signatures recorded here."""
        made = [self.sign(key, signed["_type"], signed) for key in keys]
        signatures = []
        for one in made:
            assert one.key is not None
            keyid, _ = public_keys.tuf_key(one.key.public_der, one.key.scheme)
            signatures.append({"keyid": keyid, "sig": one.signature.hex()})
        return json.dumps({"signed": signed, "signatures": signatures}).encode()


ROOT_KEYS = ("root-1", "root-2", "root-3")
ONLINE_KEYS = ("targets", "snapshot", "timestamp")


def new_author(world: World, repository: str = "demo", *, prefix: str = "") -> Author:
    """A bootstrapped repository whose keys are made and whose root 1 is not yet signed.

    Key names are known to the author without `prefix`, which keeps two repositories apart.
    """
    keys = {name: make_key(world, prefix + name) for name in (*ROOT_KEYS, *ONLINE_KEYS)}
    bootstrap(
        world,
        ADMIN,
        name=repository,
        root_keys=[keys[name].name for name in ROOT_KEYS],
        foreign_keys=[],
        threshold=2,
        development=False,
    )
    return Author(world, repository, keys)


def active_author(world: World, repository: str = "demo", *, prefix: str = "") -> Author:
    """A repository with root, targets, snapshot and timestamp 1 accepted."""
    author = new_author(world, repository, prefix=prefix)
    author.publish_root(author.root(), prefix + "root-1", prefix + "root-2")
    author.sign(prefix + "targets", "targets", author.targets())
    author.sign(prefix + "snapshot", "snapshot", author.snapshot())
    author.sign(prefix + "timestamp", "timestamp", author.timestamp())
    return author


def signed_file(author: Author, signed: Signed, *keys: str) -> bytes:
    """A file that the tokens signed behind the daemon's back."""
    raw, signatures = canonical.encode(signed), []
    for key in (author.keys[name] for name in keys):
        item = SignItem(key.cka_id, key.public_der, key.scheme, raw)
        [signature] = author.world.tokens.get(key.token).sign([item], TIMEOUT_S)
        assert isinstance(signature, bytes)
        keyid, _ = public_keys.tuf_key(key.public_der, key.scheme)
        signatures.append({"keyid": keyid, "sig": signature.hex()})
    return json.dumps({"signatures": signatures, "signed": signed}).encode()


# In order; a test's own are closed behind it (conftest.py).
opened: list[SqliteLedger] = []


def open_ledger(directory: Path, clock: TestClock, *, development: bool = False) -> SqliteLedger:
    """The ledger below `directory`, created if there is none, its anchor beside it."""
    state, anchor = directory / "ledger", directory / "anchor"
    if not state.exists():
        create_ledger(
            state,
            origin="keyd.test/log",
            development=development,
            clock=clock,
            anchor=anchor,
        )
    opened.append(open_sqlite(state, anchor=anchor))
    return opened[-1]


def sign_many(
    world: World, caller: Caller, requests: Sequence[SigningRequest], *, timeout_s: float
) -> list[Outcome]:
    """One batch, as BatchSignMetadata signs a chunk."""
    with Pipeline(world, caller) as pipeline:
        return pipeline.finish(pipeline.begin(requests, timeout_s=timeout_s))


def existing_repository(world: World, name: str) -> Repository:
    found = world.ledger.read(lambda view: view.repository(name))
    assert found is not None
    return found
