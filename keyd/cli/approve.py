"""`keyd approve`: an officer decides on a statement file, without a daemon."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli import case as cases
from keyd.cli.deciding import decided, deciding_options, opener
from keyd.cli.metadata_files import write_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit
from keyd.domain.approval import Decision, Statement


@click.command(
    epilog=examples(
        "keyd approve --statement p-….json --key pkcs11:token=alice --module /usr/lib/opensc.so"
        " --out alice.dsse",
        "keyd approve --statement p-….json --key file:alice.key --trusted 1.root.json"
        " --out alice.dsse",
    )
)
@click.option(
    "--statement",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of keyd proposal statement.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the envelope goes, for keyd proposal import.",
)
@click.option("--reject", is_flag=True, help="Say no instead.")
@deciding_options
@json_option
def approve(
    *,
    path: Path,
    out: Path,
    reject: bool,
    key: str,
    module: Path | None,
    key_id: bytes,
    pin_fd: int | None,
    payload: Path | None,
    trusted: Path | None,
    without_difference: bool,
    confirm: str | None,
    as_json: bool,
) -> None:
    """Approve a statement file offline, with your own key.

    Digest and difference are computed from the bytes in the file, or from your own copies of them.
    The trusted version is the daemon's word unless you give your own. No network is used.
    """
    found, officer = cases.decode(path)
    case = cases.with_own_files(found, payload, trusted)
    decision = Decision.REJECT if reject else Decision.APPROVE
    statement = Statement(officer, decision, case.basis)
    envelope = decided(
        case,
        statement,
        confirm,
        opener(key, module, key_id, pin_fd),
        without_difference=without_difference,
    )
    write_file(out, envelope)
    data = {"proposal": case.basis.proposal, "decision": decision.value, "envelope": str(out)}
    emit(as_json, data, f"{out}: hand it in with keyd proposal import {out}")
