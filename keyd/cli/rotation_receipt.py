"""`keyd rotate receipt`: what a person signs elsewhere, shown from the bytes that they sign."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from keyd.cli.case_metadata import metadata_compared
from keyd.cli.compared import digest_lines
from keyd.cli.metadata_files import read_document
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, plain, say, table
from keyd.cli.remote import connect, profile_option
from keyd.domain import checkpoint, dsse
from keyd.domain.receipts import PAYLOAD_TYPE, bound_in
from keyd.errors import InvalidRequest
from keyd_client.messages import GetReceiptResponse, as_dict

_OUT = click.Path(path_type=Path, file_okay=False)
_IN = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command(epilog=examples("keyd rotate receipt r-abc… --output to-sign --trusted 3.root.json"))
@click.argument("name")
@click.option("--role", default="", help="Role; default: the one that waits.")
@click.option("--output", type=_OUT, required=True, help="Directory for payload and receipt.")
@click.option("--trusted", type=_IN, help="Your own copy of the version that is trusted now.")
@click.option(
    "--verifier-key",
    default="",
    metavar="NAME+HASH+KEY",
    help="The log's verifier key, kept from earlier: the receipt must be signed by it.",
)
@profile_option
@json_option
def receipt(
    *,
    name: str,
    role: str,
    output: Path,
    trusted: Path | None,
    verifier_key: str,
    profile: str,
    as_json: bool,
) -> None:
    """Fetch what is to be signed elsewhere: the exact payload and the receipt of its version.

    What the payload changes is computed here, against your own copy of the trusted version; without
    one it is not known.
    """
    log_key = checkpoint.parse_verifier(verifier_key) if verifier_key else None
    own = read_document(trusted).payload if trusted is not None else b""
    with connect(profile) as client:
        found = client.rotations.receipt(name, role)
    _check(found, name, role, log_key)
    compared = metadata_compared(
        found.role, found.version, found.payload, own, why="give it by --trusted FILE"
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / "payload").write_bytes(found.payload)
    (output / "receipt.json").write_bytes(found.receipt)
    for line in (*digest_lines(compared.digest), *compared.lines()):
        say(line)
    if log_key is None:
        say("note: the receipt's signature was not checked; --verifier-key does it")
    data = {
        "receipt": as_dict(found),
        "digest": compared.digest.hex(),
        "changes": list(compared.changes),
        "doubts": list(compared.doubts),
    }
    emit(as_json, data, _words(found, output / "payload"))


def _words(found: GetReceiptResponse, file: Path) -> str:
    rows = [(keyid, holder) for keyid, holder in sorted(found.wanted.items())]
    words = f"{plain(found.role)} {found.version}: sign the bytes of {file}"
    return f"{words}\n{table(('KEY ID', 'HELD BY'), rows)}".rstrip()


def _check(
    found: GetReceiptResponse, name: str, role: str, log_key: checkpoint.LogKey | None
) -> None:
    """Raises: InvalidRequest (RECEIPT_INVALID) unless the receipt binds this very payload."""
    envelope = dsse.decode(found.receipt)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise _invalid("it is an envelope of another kind")
    digest = hashlib.sha256(found.payload).hexdigest()
    if bound_in(envelope.payload) != (name, found.role, found.version, digest):
        raise _invalid("it binds another payload, version or rotation")
    if role not in ("", found.role):
        raise _invalid(f"it is one of {plain(found.role)}")
    if log_key is None:
        return
    try:
        log_key.verify(dsse.pae(PAYLOAD_TYPE, envelope.payload), envelope.signature)
    except InvalidRequest as error:
        raise _invalid("it is not signed by the log key that you gave") from error


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest("RECEIPT_INVALID", f"sign nothing: the receipt is refused: {why}")
