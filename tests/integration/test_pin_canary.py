"""Secrets with a face: what they are looked for in, they must not be found in."""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import traceback
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd_client.errors import (
    InvalidRequest,
    KeydClientError,
    NotAllowed,
    PinRejected,
    PolicyViolation,
)
from tests.daemon import OPAQUE_KEY, TOKEN, Installation
from tests.faults.shim import build_shim
from tests.running import Daemon, Done
from tests.tally import Promise, tallied

DEBUG = '[log]\nlevel = "debug"\n'
LEDGER = re.compile(r"ledger\.db(-wal|-shm)?|backup\.db")


class Canary:
    """A random text that is recognised in the forms in which data travel."""

    def __init__(self, name: str, text: str = "") -> None:
        self.name = name
        self.text = text or f"{name}-{secrets.token_hex(8)}"
        raw = self.text.encode()
        self.forms = (raw, raw.hex().encode(), *(_base64_inner(raw, place) for place in range(3)))

    def __repr__(self) -> str:
        return self.name

    def is_in(self, data: bytes) -> bool:
        return any(form in data for form in self.forms)


def _base64_inner(raw: bytes, before: int) -> bytes:
    """The characters that only `raw` decides when so many bytes stand before it."""
    first = -(-8 * before // 6)
    last = 8 * (before + len(raw)) // 6
    return base64.b64encode(b"x" * before + raw)[first:last]


def places(installation: Installation, daemon: Daemon) -> Iterator[tuple[str, bytes]]:
    """Everything that the daemon and its workers show or leave behind, by name."""
    for path in sorted(installation.root.rglob("*")):
        own_pin = path.parent == installation.softhsm and path.name in ("pin", "so-pin")
        if path.is_file() and not own_pin:
            yield str(path.relative_to(installation.root)), path.read_bytes()
    workers = [e["pid"] for e in daemon.events() if e["event"] == "token_worker_started"]
    for pid in (daemon.running.pid, *workers):
        for name in ("cmdline", "environ"):
            # Unreadable, unless we are root: the processes are not dumpable.
            with contextlib.suppress(PermissionError, FileNotFoundError):
                yield f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_bytes()
    address = daemon.wait_for("metrics_listening")["address"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        yield "metrics", answer.read()


def found(
    canaries: list[Canary], installation: Installation, daemon: Daemon, *said: Done
) -> set[tuple[Canary, str]]:
    shown = list(places(installation, daemon))
    shown += [("output", (done.out + done.err).encode()) for done in said]
    assert len(shown) > 10
    return {(canary, name) for canary in canaries for name, data in shown if canary.is_in(data)}


def test_a_pin_from_a_file_and_payloads_are_nowhere(
    installation: Installation, tmp_path: Path
) -> None:
    installation.configure(DEBUG)
    pin = Canary("pin", installation.pin)
    payload, opaque = Canary("payload"), Canary("opaque")
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        sign_and_be_refused(installation, payload.text)
        with installation.client() as client:
            client.sign_opaque(OPAQUE_KEY, opaque.text.encode())
            with pytest.raises(NotAllowed):
                client.sign_opaque("timestamp", opaque.text.encode())
        said = operate(installation, payload, tmp_path)
        hits = found([pin, payload, opaque], installation, daemon, *said)
        # Payloads are recorded: without them GetSignature could give nothing back.
        assert {name for canary, name in hits if canary is payload} >= {"ledger/ledger.db-wal"}
        elsewhere = {hit for hit in hits if hit[0] is not payload or not LEDGER.search(hit[1])}
        assert not elsewhere
        check_memory(daemon, pin)
        assert daemon.stop() == 0
    assert not any(pin.is_in(data) for _, data in remains(installation))


def sign_and_be_refused(installation: Installation, text: str) -> None:
    recorder = installation.recorder()
    writer = recorder.writer
    file = {"length": 1, "hashes": {"sha256": "0" * 64}}
    recorder.sign("targets", "targets", writer.targets(2, targets={f"{text}/file": file}))
    refusals = {
        PolicyViolation: canonical.encode(writer.snapshot(2, **{text: 1})),
        InvalidRequest: canonical.encode(writer.snapshot(2) | {"version": text}),
    }
    for kind, refused in refusals.items():
        with pytest.raises(kind):
            recorder.sign("snapshot", "snapshot", refused)
    with pytest.raises(InvalidRequest):
        recorder.sign("snapshot", "snapshot", f'{{"_type":"snapshot","{text}'.encode())


def operate(installation: Installation, payload: Canary, folder: Path) -> list[Done]:
    """What operators run beside the daemon; a file signed by the CLI is theirs."""
    metadata = folder / "snapshot.json"
    writer = installation.recorder().writer
    metadata.write_bytes(canonical.encode(writer.snapshot(2, targets=2)))
    config = ("--config", installation.config)
    export, backup = installation.root / "export", installation.root / "backup.db"
    done = [
        installation.keyd("sign", "--key", "snapshot", metadata),
        installation.keyd("audit", "export", "--output", export),
        installation.keyd("audit", "list", "--limit", "1000", "--json"),
        installation.keyd("ledger", "backup", backup, *config),
        installation.keyd("doctor", "--json", *config),
    ]
    for one in done[:-1]:
        assert one.code == 0, one.err
    return done


def check_memory(daemon: Daemon, pin: Canary) -> None:
    """Only the worker reads the file: the daemon itself has never seen this PIN."""
    memory = Path(f"/proc/{daemon.running.pid}/mem")
    maps = Path(f"/proc/{daemon.running.pid}/maps")
    try:
        lines = maps.read_text().splitlines()
    except PermissionError:
        return  # the process is not dumpable, and we are not root
    with memory.open("rb", buffering=0) as file:
        for line in lines:
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            file.seek(start)
            with contextlib.suppress(OSError):
                assert pin.forms[0] not in file.read(end - start), line


def remains(installation: Installation) -> Iterator[tuple[str, bytes]]:
    for path in (installation.ledger, installation.anchor):
        for file in path.iterdir():
            yield file.name, file.read_bytes()


def test_typed_pins_are_nowhere(installation: Installation) -> None:
    """Typed, rejected and accepted ones."""
    installation.configure(DEBUG, pin_source="prompt")
    right, wrong = Canary("right pin", installation.pin), Canary("wrong")
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        with installation.client() as client:
            with pytest.raises(PinRejected):
                client.tokens.unlock(TOKEN, wrong.text.encode())
            client.tokens.unlock(TOKEN, right.text.encode())
            assert client.sign_opaque(OPAQUE_KEY, b"unlocked").signature
        assert not found([right, wrong], installation, daemon)
        assert daemon.stop() == 0
    assert not any(wrong.is_in(data) or right.is_in(data) for _, data in remains(installation))


def behind_a_shim(installation: Installation, folder: Path, order: str) -> None:
    """Put the misbehaving module before the token; every login obeys `order`, if there is one."""
    module = build_shim(folder)
    orders = folder / "orders"
    orders.mkdir()
    if order:
        (orders / "C_Login.always").write_text(order)
    text = installation.config.read_text()
    real = re.search(r'module = "(.*)"', text)
    assert real is not None
    variables = f'KEYD_SHIM_MODULE = "{real[1]}", KEYD_SHIM_DIR = "{orders}", SOFTHSM2_CONF'
    text = text.replace(real[0], f'open_timeout_s = 5.0\nmodule = "{module}"')
    installation.config.write_text(text.replace("SOFTHSM2_CONF", variables))


def told(error: BaseException | None) -> Iterator[bytes]:
    """Everything that an exception can show to its finder, its causes included."""
    while error is not None:
        yield f"{error!r} {error} {vars(error)!r}".encode()
        yield "".join(traceback.format_exception(error)).encode()
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "order", ["", "abort", pytest.param("hang", marks=pytest.mark.slow(seconds=30))]
)
def test_pins_of_failed_logins_are_nowhere(
    order: str, installation: Installation, tmp_path: Path
) -> None:
    """Rejected, and presented to a module that crashes or hangs with the PIN in its hands."""
    installation.configure(DEBUG)
    behind_a_shim(installation, tmp_path, order)
    kept, typed = Canary("kept"), Canary("typed")
    (installation.softhsm / "pin").write_text(kept.text)
    with tallied(Promise.SECRETS_KEPT, "a failed login") as tally, installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        tally.injected()
        with installation.client() as client:
            with pytest.raises(KeydClientError) as error:
                client.tokens.unlock(TOKEN, typed.text.encode())
            tally.injected()
            shown = b"".join(told(error.value)) + repr(client.tokens.list()).encode()
        assert not typed.is_in(shown)
        assert not kept.is_in(shown)
        doctor = installation.keyd("doctor", "--json", "--config", installation.config)
        assert not found([kept, typed], installation, daemon, doctor)
        assert daemon.stop() == 0
    assert (tmp_path / "orders" / "C_Login.calls").stat().st_size == 2
    assert not any(one.is_in(data) for one in (kept, typed) for _, data in remains(installation))


def test_a_canary_is_recognised() -> None:
    canary = Canary("seeded")
    raw = canary.text.encode()
    shown = [
        raw,
        raw.hex().encode(),
        *(base64.b64encode(b"..."[:n] + raw + b"!") for n in range(3)),
    ]
    for form in shown:
        assert canary.is_in(b"before " + form + b" after")
    assert not canary.is_in(Canary("other").text.encode())
