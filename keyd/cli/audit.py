"""`keyd audit`: the append-only log and its proofs."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from keyd.cli.log_export import download
from keyd.cli.metadata_files import read_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, plain, progress, say, table
from keyd.cli.remote import connect, profile_option
from keyd.cli.reports import show_report
from keyd.domain import checkpoint as notes
from keyd.domain import merkle
from keyd.errors import InvalidRequest
from keyd.ledger.verification.exported import verify_export
from keyd.ledger.verification.report import Report
from keyd_client import Client
from keyd_client.messages import LogEntry, as_dict

_IN = click.Path(path_type=Path, dir_okay=False, exists=True)
_verifier_option = click.option(
    "--verifier-key",
    default="",
    metavar="NAME+HASH+KEY",
    help="The log's verifier key, kept from earlier; default: what the daemon says it is.",
)


@click.group()
def audit() -> None:
    """Read, verify and prove the audit log."""


@audit.command(
    "list", epilog=examples("keyd audit list", "keyd audit list --start 100 --limit 10 --json")
)
@click.option("--start", type=click.IntRange(0), help="First index; default: the last entries.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@profile_option
@json_option
def list_entries(*, start: int | None, limit: int, profile: str, as_json: bool) -> None:
    """List entries of the log."""
    with connect(profile) as client, progress("reading the log"):
        first = max(0, client.audit.size() - limit) if start is None else start
        entries = list(client.audit.entries(first, first + limit))
    documents = [_document(entry) for entry in entries]
    headers = ("INDEX", "TIME", "EVENT", "PRINCIPAL", "WHAT")
    rows = [
        (one["index"], one["time"][:19] + "Z", one["event"], one["principal"], _what(one))
        for one in documents
    ]
    emit(as_json, {"entries": documents}, table(headers, rows))


def _document(entry: LogEntry) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(entry.data)
    return document


_COMMON = frozenset({"index", "time", "event", "principal", "request_id"})
_LONGEST = 60


def _what(document: dict[str, Any]) -> str:
    """The particular members of an entry, short enough for a line."""
    pairs = [f"{name}={value}" for name, value in document.items() if name not in _COMMON]
    return " ".join(pair if len(pair) <= _LONGEST else pair[:_LONGEST] + "…" for pair in pairs)


@audit.command(
    epilog=examples(
        "keyd audit verify",
        "keyd audit verify --verifier-key keyd.example.com/log+1a2b3c4d+AZ… --checkpoint old.note",
        "keyd audit verify --verifier-key keyd.example.com/log+1a2b3c4d+AZ… --export ./log",
    )
)
@_verifier_option
@click.option("--checkpoint", "kept", type=_IN, help="A checkpoint kept earlier, to be extended.")
@click.option(
    "--export",
    "exported",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Check this export instead of asking a daemon; needs --verifier-key.",
)
@click.option(
    "--no-payloads",
    is_flag=True,
    help="The export was made without payloads: its signatures are not verified.",
)
@profile_option
@json_option
def verify(
    *,
    verifier_key: str,
    kept: Path | None,
    exported: Path | None,
    no_payloads: bool,
    profile: str,
    as_json: bool,
) -> int:
    """Recompute the whole log from its raw entries and compare it with its signed checkpoint.

    No version may have two payloads, and every signature must have been announced. Signatures are
    verified where there are payloads: in what keyd ledger export wrote, not in what a daemon
    answers. Without a verifier key kept elsewhere the daemon is asked for it, which proves only
    that the log agrees with itself. Exits with 1 if anything differs.
    """
    if exported is not None:
        if not verifier_key or kept is not None:
            raise click.UsageError("--export goes with --verifier-key and without --checkpoint")
        key = notes.parse_verifier(verifier_key)
        report = verify_export(exported, key, payloads=not no_payloads)
        return show_report(report, as_json, {"verifier_key": verifier_key})
    if no_payloads:
        raise click.UsageError("--no-payloads goes with --export: a daemon gives none")
    with connect(profile) as client, progress("verifying the log"):
        return _verify_daemon(client, verifier_key, kept, as_json)


def _verify_daemon(client: Client, verifier_key: str, kept: Path | None, as_json: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="keyd-log-") as folder:
        signed, _ = download(client, Path(folder) / "log")
        told = verifier_key or signed.verifier_key
        key = notes.parse_verifier(told)
        report = verify_export(Path(folder) / "log", key, payloads=False)
    if not verifier_key:
        say("the verifier key came from the daemon itself; keep it and give it next time")
    if report.unverified:
        say(
            "a daemon hands out no payloads, so signatures are counted as unverified; to verify "
            "them: keyd ledger export, then keyd audit verify --export"
        )
    extends = _check_extends(client, signed.note, kept, key, report) if kept else 0
    return show_report(report, as_json, {"verifier_key": told, "extends": extends})


def _check_extends(client: Client, note: str, kept: Path, key: notes.LogKey, report: Report) -> int:
    """Note in the report if the log does not begin with what a kept checkpoint covers."""
    text = read_file(kept).decode("utf-8", "replace")
    # What is no checkpoint at all says nothing about the log.
    notes.parse_note(text)
    try:
        earlier = notes.verify_checkpoint(text, [key])
        now = notes.verify_checkpoint(note, [key])
        if earlier.size > now.size:
            report.flaw("log", f"it has {now.size} entries and once had {earlier.size}")
            return earlier.size
        proof = client.audit.consistency_proof(earlier.size, now.size)
        merkle.verify_consistency(earlier.size, earlier.root, now.size, now.root, proof)
    except InvalidRequest as error:
        report.flaw(f"checkpoint {kept}", error.message)
        return 0
    return earlier.size


@audit.command(epilog=examples("keyd audit export --output ./log", "keyd audit export | jq .event"))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="New directory for entries, checkpoint and public keys; default: entries to stdout.",
)
@profile_option
@json_option
def export(*, output: Path | None, profile: str, as_json: bool) -> None:
    """Write the raw entries, one to a line, exactly as their hashes cover them.

    keyd audit verify --export checks the directory anywhere. With the payloads, which are needed
    to verify signatures, keyd ledger export writes it on the daemon's host.
    """
    with connect(profile) as client, progress("exporting the log"):
        if output is None:
            for entry in client.audit.entries():
                sys.stdout.buffer.write(entry.data + b"\n")
            return
        signed, count = download(client, output)
    data = {"directory": str(output), "entries": count, "checkpoint": signed.note}
    emit(as_json, data, f"{output}: {count} entries")


@audit.command(epilog=examples("keyd audit checkpoint", "keyd audit checkpoint --json"))
@profile_option
@json_option
def checkpoint(*, profile: str, as_json: bool) -> None:
    """Print the newest signed checkpoint (a C2SP signed note), to be kept elsewhere."""
    with connect(profile) as client, progress("signing a checkpoint"):
        signed = client.audit.checkpoint()
    say(f"verifier key: {plain(signed.verifier_key)}")
    emit(as_json, {"checkpoint": as_dict(signed)}, signed.note.rstrip("\n"))


@audit.command(epilog=examples("keyd audit prove 17", "keyd audit prove 17 --json"))
@click.argument("index", type=click.IntRange(0))
@_verifier_option
@profile_option
@json_option
def prove(*, index: int, verifier_key: str, profile: str, as_json: bool) -> None:
    """Prove that an entry is in the log, and check the proof against the signed checkpoint."""
    with connect(profile) as client:
        signed = client.audit.checkpoint()
        proof = client.audit.inclusion_proof(index, signed.size)
        entry = next(iter(client.audit.entries(index, index + 1)))
    key = notes.parse_verifier(verifier_key or signed.verifier_key)
    head = notes.verify_checkpoint(signed.note, [key])
    leaf = merkle.leaf_hash(entry.data)
    if leaf != proof.leaf_hash:
        raise InvalidRequest("LEAF_HASH_WRONG", f"entry {index} has another hash than it proves")
    merkle.verify_inclusion(leaf, index, head.size, list(proof.hashes), head.root)
    data = {
        "entry": _document(entry),
        "leaf_hash": leaf.hex(),
        "proof": [one.hex() for one in proof.hashes],
        "checkpoint": signed.note,
        "verifier_key": signed.verifier_key,
    }
    emit(as_json, data, f"entry {index} is in the log of {head.size} entries: proved")
