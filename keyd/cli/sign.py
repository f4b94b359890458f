"""`keyd sign` and `keyd check`: one metadata file, or other bytes, and a key."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keyd.cli.exits import Exit
from keyd.cli.metadata_files import Document, read_document, read_file, write_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, facts, plain, progress, say
from keyd.cli.remote import connect, dicts, profile_option, say_finding
from keyd_client import Client
from keyd_client.messages import CheckMetadataResponse, MetadataSignature, as_dict

_file_argument = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
_PRINTED = "--output is for metadata files: other signatures are printed, redirect them"
_repository_option = click.option(
    "--repository", default="", help="Repository; default: the profile's, else the key's own."
)
_role_option = click.option(
    "--role", default="", help="Role; default: told by the file's type and the key."
)


def _digest(_context: click.Context, _parameter: click.Parameter, value: str) -> bytes:
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        digest = b"?"
    if len(digest) not in {0, 32}:
        raise click.BadParameter("is not 64 hexadecimal digits; keyd check prints them")
    return digest


_confirm_option = click.option(
    "--confirm-change",
    default="",
    callback=_digest,
    metavar="DIGEST",
    help="Digest of the root change that you have read (from keyd check).",
)


@click.command(
    epilog=examples(
        "keyd sign --key timestamp-1 timestamp.json",
        "keyd sign --key root-1 --key root-2 --confirm-change 3f5c… 2.root.json",
        "keyd sign --key bins-1 --role bins-0f --output signed.json bins-0f.json",
        "keyd sign --key layouts --opaque layout.bin",
    )
)
@_file_argument
@click.option("--key", "keys", required=True, multiple=True, help="Signing key (repeatable).")
@_repository_option
@_role_option
@_confirm_option
@click.option("--output", type=click.Path(path_type=Path), help="Write here, not into FILE.")
@click.option("--opaque", is_flag=True, help="FILE is no TUF metadata, the key is an opaque one.")
@profile_option
@json_option
def sign(
    *,
    file: Path,
    keys: tuple[str, ...],
    repository: str,
    role: str,
    confirm_change: bytes,
    output: Path | None,
    opaque: bool,
    profile: str,
    as_json: bool,
) -> None:
    """Have TUF metadata signed.

    FILE is a metadata file, which gets the signatures filled in, or the bare canonical payload,
    whose signatures are printed in hexadecimal. A new root is signed only with the digest of what
    it changes; on a terminal the change is shown and asked about.
    """
    if opaque and output:
        raise click.UsageError(_PRINTED)
    with connect(profile) as client, progress(f"signing {file}"):
        if opaque:
            _sign_opaque(client, file, keys, as_json)
            return
        document = read_document(file)
        if output and document.envelope is None:
            raise click.UsageError(_PRINTED)
        made = []
        for key in keys:
            meant = document.role(role, file, key)
            change = confirm_change or _ask(client, document, key, repository)
            made.append(
                client.sign_metadata(
                    key,
                    document.payload,
                    repository=repository,
                    role=meant,
                    confirmed_change=change,
                )
            )
            if document.envelope is not None:
                keyid = client.keys.get(key).tuf_keyid
                document = document.with_signature(keyid, made[-1].signature)
        if document.envelope is not None:
            write_file(output or file, document.content())
    for one in made:
        for warning in one.warnings:
            say_finding(warning)
    emit(as_json, {"signatures": dicts(made)}, _words(document, made, output or file))


def _sign_opaque(client: Client, file: Path, keys: tuple[str, ...], as_json: bool) -> None:
    data = read_file(file)
    made = [client.sign_opaque(key, data) for key in keys]
    emit(as_json, {"signatures": dicts(made)}, "\n".join(one.signature.hex() for one in made))


def _ask(client: Client, document: Document, key: str, repository: str) -> bytes:
    """On a terminal, show what a new root changes; returns its digest if the user agrees."""
    if document.type != "root" or not sys.stdin.isatty():
        return b""
    checked = client.check_metadata(document.payload, key=key, repository=repository, role="root")
    if not checked.change_sha256:
        return b""
    say("This root changes:")
    for line in checked.change:
        say(f"  {plain(line)}")
    click.confirm(f"Sign it with {key}?", abort=True, err=True)
    return checked.change_sha256


def _words(document: Document, made: list[MetadataSignature], target: Path) -> str:
    if document.envelope is None:
        return "\n".join(one.signature.hex() for one in made)
    last = made[-1]
    missing = last.missing_signatures
    standing = "accepted" if last.accepted else f"{missing} more signatures needed"
    role = plain(f"{last.repository}/{last.role}")
    return f"{target}: {role} version {last.version}, {standing}"


@click.command(
    epilog=examples("keyd check targets.json", "keyd check --key root-1 --json 2.root.json")
)
@_file_argument
@click.option("--key", default="", help="Judge it for this key; default: the payload alone.")
@_repository_option
@_role_option
@_confirm_option
@profile_option
@json_option
def check(
    *,
    file: Path,
    key: str,
    repository: str,
    role: str,
    confirm_change: bytes,
    profile: str,
    as_json: bool,
) -> int:
    """Judge TUF metadata as signing would, without a token.

    Nothing is reserved or recorded. For a new root it prints what changes, and the digest that
    keyd sign wants. Exits with 1 if it would be refused.
    """
    document = read_document(file)
    with connect(profile) as client, progress(f"checking {file}"):
        checked = client.check_metadata(
            document.payload,
            key=key,
            repository=repository,
            role=document.role(role, file, key),
            confirmed_change=confirm_change,
        )
    for finding in checked.findings:
        say_finding(finding)
    emit(as_json, {"check": as_dict(checked)}, _verdict(checked))
    return Exit.DONE if checked.would_sign else Exit.FAILED


def _verdict(checked: CheckMetadataResponse) -> str:
    return facts(
        {
            "verdict": "would be signed" if checked.would_sign else "would be refused",
            "repository": checked.repository,
            "role": checked.role,
            "next version": checked.next_version,
            "change": tuple(checked.change),
            "change digest": checked.change_sha256.hex(),
            "payload SHA-256": checked.payload_sha256.hex(),
        }
    )
