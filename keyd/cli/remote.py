"""Commands that ask a running daemon: they are clients like any other, through `keyd_client`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click

from keyd.cli.output import plain, say
from keyd_client import Client
from keyd_client import profile as profiles
from keyd_client.errors import ProfileError
from keyd_client.messages import Finding, as_dict

_DEFAULT = "default"
_DEVELOPMENT = "dev"  # what `keyd dev` writes

profile_option = click.option(
    "-p",
    "--profile",
    envvar="KEYD_PROFILE",
    default="",
    help='Client profile (KEYD_PROFILE; default: "default", else "dev").',
)
comment_option = click.option("--comment", default="", help="Why, for the audit log.")


def connect(profile: str) -> Client:
    """A client of the profile that was asked for, or of the one that there is.

    Nothing is opened yet. Raises: ProfileError (PROFILE_NOT_FOUND).
    """
    if profile:
        return Client(profile)
    try:
        profiles.find(_DEFAULT)
    except ProfileError:
        if not any(
            (folder / f"{_DEVELOPMENT}.toml").is_file() for folder in profiles.directories()
        ):
            raise
        return Client(_DEVELOPMENT)
    return Client(_DEFAULT)


def dicts(messages: Iterable[Any]) -> list[dict[str, Any]]:
    """Plain data of many messages."""
    return [as_dict(message) for message in messages]


def say_finding(finding: Finding) -> None:
    """One finding of the daemon's on stderr, and whether it refuses."""
    kind = "refused" if finding.refuses else "warning"
    say(plain(f"{kind}: {finding.reason} at {finding.pointer or '/'}: {finding.message}"))


def confirm_name(name: str, given: str | None, consequence: str) -> None:
    """Have the name typed before something that cannot be undone.

    Raises: click.UsageError when the name is another one, or when there is nobody to ask.
    """
    if given is None:
        click.echo(consequence, err=True)
        if not os.isatty(0):
            raise click.UsageError(f"this cannot be undone: add --confirm {plain(name)}")
        given = click.prompt("Type the name to go on", err=True)
    if given != name:
        raise click.UsageError(f"{given!a} is not {name!a}: nothing was done")
