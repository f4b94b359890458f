"""A ledger that has been through everything: verified, exported, and spoiled in every way."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from keyd.domain import canonical, public_keys
from keyd.domain.checkpoint import LogKey
from keyd.domain.keys import Content, KeySpec, KeyState, Scheme
from keyd.domain.officers import OfficerKeyState, OfficerState
from keyd.domain.operations import (
    ChangeKeyState,
    ChangeOfficer,
    SetBaseRule,
    SignMetadata,
    SucceedOfficer,
    VoidReservation,
)
from keyd.domain.tokens import SignItem
from keyd.errors import BackendUnavailable, DeadlineExceeded, KeydError
from keyd.ledger.backup import backup, restore
from keyd.ledger.repair import repair
from keyd.ledger.verification.report import Report
from keyd.ledger.verification.verify import verify_ledger
from keyd.rehearsal.stage import StockClients
from keyd.services.audit import ensure_log_key, sign_checkpoint
from keyd.services.imports import import_metadata
from keyd.services.keys import change_state
from keyd.services.opaque import OpaqueRequest, sign_opaque
from keyd.services.proposals import Shown
from keyd.services.recovery import close_open_intents
from keyd.services.registration import register
from keyd.services.repositories import bootstrap
from keyd.services.rotation import advancing
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.authors import Signed, Writer
from tests.fakes import FakeTokens, SoftwareToken, TestClock, new_private_key, public_der, sign_with
from tests.integration import rotating
from tests.ledgers import Home, past_triggers
from tests.officers import Person, approve, carry_out, enrol, person, propose, reject
from tests.worlds import ADMIN, SIGNER, Author, active_author, make_key, open_world

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Used:
    """Where a used ledger lives, and its log key."""

    base: Path
    key: LogKey


def verify(home: Home, key: LogKey | None = None, *, anchored: bool = True) -> Report:
    return verify_ledger(
        home.state,
        anchor=home.anchor if anchored else None,
        log_keys=[] if key is None else [key],
    )


def tamper(home: Home, change: Callable[[sqlite3.Connection], object]) -> None:
    with past_triggers(home.database) as connection:
        change(connection)


def use(base: Path) -> LogKey:
    """Make a ledger below `base` and use it in every way; return its log key.

    Two lives: signing, importing, failing and crashing first; then the loss of the newest entries,
    a repair, and more signing under the log's new name.
    """
    token = SoftwareToken("soft", TestClock())
    world = _world(base, token)
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    _sign_much(world, author)
    _fail(world, author, token)
    _import_foreign(world)
    _crash(world, author, token)
    _rotate(world)
    _approve(world, author)
    sign_checkpoint(world, TIMEOUT_S)
    world.ledger.close()

    home = Home(base)
    backup(home.state, base / "backup")
    world = _world(base, token)
    author = Author(world, "demo", author.keys)
    author.sign("timestamp", "timestamp", author.timestamp(8))
    world.ledger.close()
    restore(base / "backup", home.state, world.clock.now())
    repair(home.state, clock=world.clock, principal="operator", anchor=home.anchor)
    world = _world(base, token)
    author = Author(world, "demo", author.keys)
    author.sign("timestamp", "timestamp", author.timestamp(9))
    sign_checkpoint(world, TIMEOUT_S)
    author.sign("timestamp", "timestamp", author.timestamp(10))
    key = world.ledger.read(lambda view: view.key("keyd-log"))
    origin = world.ledger.read(lambda view: view.identity().origin)
    world.ledger.close()
    assert key is not None
    return LogKey(origin, key.public_der)


def _world(base: Path, token: SoftwareToken) -> World:
    return open_world(base, tokens=FakeTokens(token))


def _rotate(world: World) -> None:
    """A repository's root key gives way to one that is held elsewhere and signs by receipt."""
    active_author(world, "rotated", prefix="rotated-")
    world = replace(world, rehearsal=StockClients())
    # The daemon's default: its public key is written as PEM, with raw line feeds.
    scheme = Scheme.ECDSA_P256
    elsewhere = new_private_key(KeySpec(scheme))
    keyid, key_object = public_keys.tuf_key(public_der(elsewhere), scheme)
    add = WantedKey("card", holder="dave", key_object=key_object)
    wanted = Wanted("ROOT", "rotated", (WantedRole("root", (add,), ("rotated-root-3",)),))
    name = rotating.begin(world, wanted)
    rotating.go_on(world, name)
    receipt = advancing.receipt(world, ADMIN, name, "root", timeout_s=TIMEOUT_S)
    advancing.upload(
        world,
        ADMIN,
        name,
        receipt=receipt.receipt,
        keyid=keyid,
        signature=sign_with(elsewhere, scheme, receipt.payload),
    )
    advancing.confirm_published(world, ADMIN, name)


def _sign_much(world: World, author: Author) -> None:
    """Versions of every role, a rotated root with all three signatures, delegations, opaque."""
    for version in (2, 3):
        author.sign("timestamp", "timestamp", author.timestamp(version))
    root = author.root(2)
    author.publish_root(root, "root-3", "root-1")
    author.sign("root-2", "root", root, confirmed_change=author.change_digest(root))
    for name in ("one", "two"):
        author.keys[name] = make_key(world, name)
    author.sign(
        "targets", "targets", author.delegating(2, one=(1, ["one"]), two=(2, ["one", "two"]))
    )
    author.sign("one", "one", author.targets(1))
    author.sign("one", "two", author.targets(1))
    author.sign("two", "two", author.targets(1))
    # Below its threshold, and never completed.
    author.sign("two", "two", author.targets(2))
    make_key(world, "blobs", content=Content.OPAQUE, scheme=Scheme.ECDSA_P256)
    for data in (b"a blob", b"another"):
        sign_opaque(world, SIGNER, OpaqueRequest("blobs", data), timeout_s=TIMEOUT_S)
    make_key(world, "spare")
    for state in (KeyState.DEACTIVATED, KeyState.COMPROMISED):
        change_state(
            world, ADMIN, "KeyService.MarkKeyCompromised", "spare", new=state, comment="lost it"
        )
    bootstrap(
        world,
        ADMIN,
        name="later",
        root_keys=[make_key(world, f"later-{n}").name for n in range(3)],
        foreign_keys=[],
        threshold=2,
        development=False,
    )


def _approve(world: World, author: Author) -> None:
    """Officers who approve, reject, change, and void a root that was half signed."""
    ann, ben, cat = person("ann", "qa", principals=["unix:ann"]), person("ben"), person("cat")
    enrol(world, ann, ben, cat)
    wrong, right = author.root(4, days=380), author.root(4, days=390)

    def proposed(signed: Signed) -> Shown:
        payload = canonical.encode(signed)
        digest = hashlib.sha256(payload).hexdigest()
        return propose(world, SignMetadata("demo", "root", 0, signed["version"], digest), payload)

    def sign(signed: Signed, *keys: str) -> None:
        for key in keys:
            author.sign(key, "root", signed, confirmed_change=author.change_digest(signed))

    approve(world, proposed(wrong), ann, cat)
    sign(wrong, "root-1")
    digest = hashlib.sha256(canonical.encode(wrong)).hexdigest()
    carry_out(world, VoidReservation("demo", "root", 0, 4, digest, 0), ann, ben)
    approve(world, proposed(right), ben, cat)
    sign(right, "root-1", "root-2")
    dan, new = person("dan", "qa"), ben.with_new_key()
    carry_out(world, ChangeOfficer.to(dan.officer, None), ann, ben)
    replaced = replace(ben.key, state=OfficerKeyState.REPLACED)
    changed = replace(ben.officer, keys=(replaced, new.key))
    carry_out(world, ChangeOfficer.to(changed, ben.officer), ann, dan)
    carry_out(
        world,
        ChangeOfficer.to(replace(cat.officer, state=OfficerState.REVOKED), cat.officer),
        ann,
        new,
    )
    carry_out(world, SetBaseRule(2), ann, new)
    _change_keys(world, ann, new)
    eve = person("eve", "qa")
    comes = ChangeOfficer.to(eve.officer, None)
    goes = ChangeOfficer.to(replace(dan.officer, state=OfficerState.REVOKED), dan.officer)
    carry_out(world, SucceedOfficer(goes.officer, goes.before, comes.officer), ann, new)
    reject(world, reject(world, proposed(author.root(5, days=400)), ann), eve)
    approve(world, proposed(author.root(5, days=401)), ann)


def _change_keys(world: World, *people: Person) -> None:
    """A retired key is taken back, retired again and destroyed."""
    key = make_key(world, "old")
    retired, active, gone = KeyState.DEACTIVATED, KeyState.ACTIVE, KeyState.DESTROYED
    for before, after in ((retired, active), (retired, gone)):
        change_state(world, ADMIN, "KeyService.DeactivateKey", "old", new=retired, comment="")
        carry_out(world, ChangeKeyState("old", key.fingerprint, before, after), *people)


def _fail(world: World, author: Author, token: SoftwareToken) -> None:
    """Refusals, and token calls that fail or end nobody knows how."""
    other = {**author.timestamp(2), "expires": "2030-06-01T12:00:00Z"}
    _refused(author, "timestamp", "timestamp", other)
    outcomes: list[KeydError] = [
        BackendUnavailable("TOKEN_OFFLINE", "gone", details={"outcome": "NOT_STARTED"}),
        DeadlineExceeded("TOKEN_TIMEOUT", "slow", details={"outcome": "UNKNOWN_RECORDED"}),
    ]
    for failure in outcomes:
        token.failures.append(failure)
        _refused(author, "timestamp", "timestamp", author.timestamp(4))
    author.sign("timestamp", "timestamp", author.timestamp(4))


def _refused(author: Author, key: str, role: str, signed: Signed) -> None:
    try:
        author.sign(key, role, signed)
    except KeydError:
        return
    raise AssertionError("this should have been refused")


def _import_foreign(world: World) -> None:
    """A registered repository whose signatures were made by keys that keyd does not hold."""
    scheme = Scheme.ECDSA_P256
    names = ("root-1", "root-2", "root-3", "targets", "snapshot", "timestamp")
    private = {name: new_private_key(KeySpec(scheme)) for name in names}

    def tuf_key(name: str) -> tuple[str, Signed]:
        return public_keys.tuf_key(public_der(private[name]), scheme)

    def file(signed: Signed, *signers: str) -> bytes:
        raw = canonical.encode(signed)
        signatures = [
            {"keyid": tuf_key(name)[0], "sig": sign_with(private[name], scheme, raw).hex()}
            for name in signers
        ]
        return json.dumps({"signed": signed, "signatures": signatures}).encode()

    writer = Writer(world.clock.now, tuf_key)
    roots = [
        file(writer.root(3), "root-1", "root-2"),
        file(writer.root(4), "root-1", "root-2", "root-3"),
    ]
    register(world, ADMIN, name="foreign", root_files=roots, development=False)
    files = [
        ("targets", file(writer.targets(7), "targets")),
        ("snapshot", file(writer.snapshot(5, targets=7), "snapshot")),
        ("timestamp", file(writer.timestamp(9, snapshot=5), "timestamp")),
    ]
    imported = import_metadata(world, SIGNER, repository="foreign", files=files)
    assert all(one.recorded for one in imported), imported


def _crash(world: World, author: Author, token: SoftwareToken) -> None:
    """An intent left open by a crash and closed at the next start; a root completed outside."""
    request = author.request("timestamp", "timestamp", author.timestamp(5))

    class Crash(BaseException):
        pass

    def crash() -> None:
        raise Crash

    token.before_sign = crash
    try:
        author.sign("timestamp", "timestamp", request.payload)
    except Crash:
        token.before_sign = lambda: None
    assert close_open_intents(world.ledger, world.clock) == 1
    author.sign("timestamp", "timestamp", request.payload)

    root = author.root(3)
    author.sign("root-1", "root", root, confirmed_change=author.change_digest(root))
    other = author.keys["root-2"]
    raw = canonical.encode(root)
    item = SignItem(other.cka_id, other.public_der, other.scheme, raw)
    outside = token.sign([item], TIMEOUT_S)[0]
    own = author.sign("root-1", "root", root)
    assert isinstance(outside, bytes)
    assert own.replayed
    assert own.key is not None
    pairs = [(other, outside), (own.key, own.signature)]
    signatures = [
        {"keyid": public_keys.tuf_key(key.public_der, key.scheme)[0], "sig": made.hex()}
        for key, made in pairs
    ]
    content = json.dumps({"signed": root, "signatures": signatures}).encode()
    files = [("root", content)]
    assert import_metadata(world, SIGNER, repository="demo", files=files)[0].recorded
