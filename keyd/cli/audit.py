"""`keyd audit`: the append-only log and its proofs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from keyd.cli.log_check import CheckedLog, check_log
from keyd.cli.metadata_files import read_file, write_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, facts, progress, say, table
from keyd.cli.remote import connect, profile_option
from keyd.domain import checkpoint as notes
from keyd.domain import merkle
from keyd.errors import InvalidRequest
from keyd_client.messages import LogEntry, as_dict

_OUT = click.Path(path_type=Path, dir_okay=False)
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
    )
)
@_verifier_option
@click.option(
    "--checkpoint", "kept", type=_IN, help="A checkpoint kept earlier: it must be extended."
)
@profile_option
@json_option
def verify(*, verifier_key: str, kept: Path | None, profile: str, as_json: bool) -> None:
    """Recompute the whole log from its raw entries and compare it with its signed checkpoint.

    Without a verifier key kept elsewhere the daemon is asked for it, which proves only that the log
    agrees with itself. Exits with 1 if anything differs.
    """
    earlier = read_file(kept).decode("utf-8", "replace") if kept else ""
    with connect(profile) as client, progress("verifying the log"):
        signed = client.audit.checkpoint()
        checked = check_log(
            client.audit.entries(0, signed.size),
            signed.note,
            verifier_key or signed.verifier_key,
            earlier,
        )
    if not verifier_key:
        say("the verifier key came from the daemon itself; keep it and give it next time")
    _report(checked, verifier_key or signed.verifier_key, as_json)


def _report(checked: CheckedLog, verifier_key: str, as_json: bool) -> None:
    data = {
        "ok": True,
        "origin": checked.origin,
        "size": checked.size,
        "root": checked.root.hex(),
        "verifier_key": verifier_key,
        "extends": checked.extends,
    }
    words = facts(
        {
            "log": checked.origin,
            "entries": f"{checked.size}, all recomputed",
            "root": checked.root.hex(),
            "signature": "good",
            "verifier key": verifier_key,
            "extends": f"the checkpoint of {checked.extends} entries" if checked.extends else "",
        }
    )
    emit(as_json, data, words)


@audit.command(
    epilog=examples("keyd audit export --output log.jsonl", "keyd audit export | jq .event")
)
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First index.")
@click.option("--output", type=_OUT, help="Write here; default: stdout.")
@profile_option
@json_option
def export(*, start: int, output: Path | None, profile: str, as_json: bool) -> None:
    """Write the raw entries, one to a line, exactly as their hashes cover them.

    With --output, FILE.checkpoint holds the signed checkpoint of just these entries.
    """
    with connect(profile) as client, progress("exporting the log"):
        signed = client.audit.checkpoint()
        lines = [entry.data + b"\n" for entry in client.audit.entries(start, signed.size)]
    if output is None:
        sys.stdout.buffer.write(b"".join(lines))
        return
    write_file(output, b"".join(lines))
    note = output.with_name(output.name + ".checkpoint")
    write_file(note, signed.note.encode())
    data = {"file": str(output), "checkpoint": str(note), "entries": len(lines)}
    emit(as_json, data, f"{output}: {len(lines)} entries; {note}")


@audit.command(epilog=examples("keyd audit checkpoint", "keyd audit checkpoint --json"))
@profile_option
@json_option
def checkpoint(*, profile: str, as_json: bool) -> None:
    """Print the newest signed checkpoint (a C2SP signed note), to be kept elsewhere."""
    with connect(profile) as client, progress("signing a checkpoint"):
        signed = client.audit.checkpoint()
    say(f"verifier key: {signed.verifier_key}")
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
