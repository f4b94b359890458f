"""`keyd token`: the hardware, and the PIN's way to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, emit_json, facts, plain, progress, say, table
from keyd.cli.pins import read_pin, typed_pin
from keyd.cli.remote import comment_option, connect, dicts, profile_option
from keyd_client.messages import Token, WatchTokensResponse, as_dict, label


@click.group()
def token() -> None:
    """List, unlock and quarantine tokens."""


@token.command("list", epilog=examples("keyd token list"))
@profile_option
@json_option
def list_tokens(*, profile: str, as_json: bool) -> None:
    """List all tokens with their state."""
    with connect(profile) as client:
        found = client.tokens.list()
    rows = [(t.name, label(t, "state"), t.serial, t.label, t.model, t.detail) for t in found]
    headers = ("NAME", "STATE", "SERIAL", "LABEL", "MODEL", "DETAIL")
    emit(as_json, {"tokens": dicts(found)}, table(headers, rows))


@token.command(
    epilog=examples(
        "keyd token unlock hsm",
        "keyd token unlock hsm --pin-file /run/credentials/pin",
        "keyd token unlock hsm --retry-configured",
    )
)
@click.argument("name")
@click.option(
    "--pin-file", type=click.Path(path_type=Path), help="Read the PIN's line from a file."
)
@click.option("--pin-fd", type=int, help="Read the PIN's line from an open descriptor.")
@click.option(
    "--retry-configured",
    is_flag=True,
    help="Present the configured PIN again, although it was rejected or its outcome is unknown.",
)
@profile_option
@json_option
def unlock(
    *,
    name: str,
    pin_file: Path | None,
    pin_fd: int | None,
    retry_configured: bool,
    profile: str,
    as_json: bool,
) -> None:
    """Present a PIN to a token, exactly once. Without an option it is asked for, unseen.

    A rejected PIN costs one of the token's few tries.
    """
    if sum((pin_file is not None, pin_fd is not None, retry_configured)) > 1:
        raise click.UsageError("give only one of --pin-file, --pin-fd and --retry-configured")
    pin = None if retry_configured else _pin(name, pin_file, pin_fd)
    with connect(profile) as client, progress(f"unlocking {name}"):
        unlocked = client.tokens.unlock(name, pin)
    _show(unlocked, as_json)


def _pin(name: str, pin_file: Path | None, pin_fd: int | None) -> bytes:
    source = pin_file if pin_file is not None else pin_fd
    return typed_pin(name) if source is None else read_pin(source)


@token.command(epilog=examples('keyd token quarantine hsm --comment "left unattended"'))
@click.argument("name")
@click.option("--comment", required=True, help="Why, for the audit log and later readers.")
@profile_option
@json_option
def quarantine(*, name: str, comment: str, profile: str, as_json: bool) -> None:
    """Stop using a token until it is released, restarts included."""
    with connect(profile) as client:
        _show(client.tokens.quarantine(name, comment), as_json)


@token.command(epilog=examples("keyd token release hsm"))
@click.argument("name")
@comment_option
@profile_option
@json_option
def release(*, name: str, comment: str, profile: str, as_json: bool) -> None:
    """Lift a quarantine; the token is opened and checked anew."""
    with connect(profile) as client:
        _show(client.tokens.release(name, comment), as_json)
    say("it is being opened; keyd token watch shows when it signs")


@token.command(epilog=examples("keyd token keys hsm", "keyd token keys hsm --json"))
@click.argument("name")
@profile_option
@json_option
def keys(*, name: str, profile: str, as_json: bool) -> None:
    """List every key object on a token: registered ones, adoptable ones, strays."""
    with connect(profile) as client, progress(f"reading {name}"):
        found = client.tokens.keys(name)
    rows = [
        (k.cka_id.hex(), k.label, k.scheme, k.registered_as, k.key_sha256.hex()[:16], k.problem)
        for k in found
    ]
    headers = ("CKA_ID", "LABEL", "SCHEME", "REGISTERED AS", "SHA-256", "PROBLEM")
    emit(as_json, {"keys": dicts(found)}, table(headers, rows))


@token.command(epilog=examples("keyd token watch", "keyd token watch --for 60 --json"))
@click.option(
    "--for", "seconds", type=click.FloatRange(0, 86_400), help="End after so many seconds."
)
@profile_option
@json_option
def watch(*, seconds: float | None, profile: str, as_json: bool) -> None:
    """Print the state of every token, then each change: PIN wanted, touch wanted, offline.

    With --json every event is one object on a line of its own.
    """
    with connect(profile) as client:
        for event in _events(client.tokens.watch(seconds or 86_400.0)):
            if as_json:
                emit_json({"event": as_dict(event)}, one_line=True)
            else:
                found = event.token
                kind = label(event, "kind")
                when = event.event_time.ToJsonString()
                state = label(found, "state")
                click.echo(
                    f"{when}  {kind:<13}  {plain(found.name)}  {state}  {plain(found.detail)}"
                )


def _events(stream: Iterator[WatchTokensResponse]) -> Iterator[WatchTokensResponse]:
    """The stream, which ends quietly when the user has seen enough."""
    try:
        yield from stream
    except KeyboardInterrupt:
        say("")


def _show(found: Token, as_json: bool) -> None:
    text = facts(
        {
            "name": found.name,
            "state": label(found, "state"),
            "detail": found.detail,
            "serial": found.serial,
            "label": found.label,
            "model": f"{found.manufacturer} {found.model}".strip(),
            "firmware": found.firmware,
            "schemes": ", ".join(found.schemes),
            "strays": found.stray_objects or "",
            "missing keys": ", ".join(found.missing_keys),
        }
    )
    emit(as_json, {"token": as_dict(found)}, text)
