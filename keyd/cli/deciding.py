"""How an officer's decision is shown, confirmed and signed: online and offline alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from keyd.cli.case import Case, Judged, judge
from keyd.cli.officer_keys import checked, opened
from keyd.cli.options import hexadecimal
from keyd.cli.output import plain, say
from keyd.cli.remote import confirm_name
from keyd.domain.approval import Decision, Statement, sealed
from keyd.domain.officers import OfficerKey, OfficerKeyKind
from keyd.errors import InvalidRequest, NotAllowed, NotFound

Command = TypeVar("Command", bound=Callable[..., Any])


_KEY_OPTIONS = (
    click.option(
        "--key",
        required=True,
        help="Your own key: a token's address (pkcs11:token=…), or file:PATH in development.",
    ),
    click.option(
        "--module",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="PKCS#11 library of the token.",
    ),
    click.option(
        "--key-id", default="", callback=hexadecimal, help="CKA_ID, if the token has several keys."
    ),
    click.option(
        "--pin-fd", type=click.IntRange(0), help="Read the PIN here, not from the terminal."
    ),
)
_FILE_OPTIONS = tuple(
    click.option(
        f"--{name}", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=text
    )
    for name, text in (
        ("payload", "Your own copy of the metadata, plan or policy; must be the proposal's."),
        (
            "trusted",
            "Your own copy of the trusted version, or policy; must be what keyd compares with.",
        ),
    )
)
_CONFIRM = click.option(
    "--confirm", metavar="NAME", help="The proposal's name once more, instead of being asked."
)

_BLIND = click.option(
    "--without-difference",
    is_flag=True,
    help="Approve although what is new in it cannot be computed here.",
)


def key_options(command: Command) -> Command:
    """Options that name an officer's key."""
    for option in reversed(_KEY_OPTIONS):
        command = option(command)
    return command


def deciding_options(command: Command) -> Command:
    """Options of every command by which an officer decides."""
    for option in reversed((*_KEY_OPTIONS, *_FILE_OPTIONS, _BLIND, _CONFIRM)):
        command = option(command)
    return command


def decided(
    case: Case,
    statement: Statement,
    confirm: str | None,
    key: Callable[[], Any],
    *,
    without_difference: bool,
) -> bytes:
    """Show the case as its bytes have it, have the name typed, sign: returns the envelope.

    `key` opens the officer's key. Raises: KeydError, InvalidRequest (DIFFERENCE_UNKNOWN) when
    somebody would approve what nobody can see, click.UsageError.
    """
    judged = judge(case)
    for line in judged.lines():
        say(line)
    if statement.decision is Decision.APPROVE and not without_difference:
        _check_seen(judged)
    word = {Decision.APPROVE: "approved", Decision.REJECT: "rejected"}[statement.decision]
    confirm_name(
        case.basis.proposal,
        confirm,
        "Compare the words with the other officers. "
        f"It will be {word} by {plain(statement.officer)}.",
    )
    with key() as signer:
        if signer.public.kind is OfficerKeyKind.FILE:
            say("warning: a key in a file is for development only")
        _check_holder(case, statement.officer, signer.public)
        return sealed(statement, signer.public, checked(signer, statement.to_be_signed()))


def _check_seen(judged: Judged) -> None:
    if judged.doubts:
        raise InvalidRequest(
            "DIFFERENCE_UNKNOWN",
            f"{plain(judged.doubts[0])}; give your own copy by --trusted FILE (or of what is "
            "proposed by --payload FILE), or say that you know what you approve by "
            "--without-difference",
        )


def _check_holder(case: Case, officer: str, key: OfficerKey) -> None:
    """Tell whoever is offline what the daemon would say later."""
    if case.officers is None:
        return
    person = case.officers.get(officer)
    if person is None:
        raise NotFound(
            "OFFICER_UNKNOWN",
            f"there is no officer {officer!a}; keyd officer list names all; nothing was signed",
        )
    if person.active_key(key.fingerprint) is None:
        raise NotAllowed(
            "OFFICER_KEY_UNKNOWN",
            f"{officer!a} approves with no such key as {key.fingerprint[:16]}: nothing was signed",
        )


def opener(key: str, module: Path | None, key_id: bytes, pin_fd: int | None) -> Callable[[], Any]:
    """What opens the key that the command line names, once it is needed."""
    return lambda: opened(key, module, key_id, pin_fd)
