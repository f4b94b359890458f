"""`keyd ledger`: the state of a daemon, on the host where it lies, as the user keyd runs as."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from keyd.cli.options import config_option, examples, json_option, set_option
from keyd.cli.output import emit, facts, progress, say
from keyd.cli.remote import confirm_name
from keyd.cli.reports import show_report
from keyd.config.load import load_settings
from keyd.daemon.clock import SystemClock
from keyd.domain.checkpoint import parse_verifier
from keyd.domain.officers import Officer
from keyd.ledger.backup import Backup
from keyd.ledger.backup import backup as make_backup
from keyd.ledger.backup import restore as restore_backup
from keyd.ledger.repair import Repaired
from keyd.ledger.repair import repair as repair_ledger
from keyd.ledger.verification.export import export_log
from keyd.ledger.verification.verify import verify_ledger

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.group()
def ledger() -> None:
    """Back up, repair and verify the ledger."""


@ledger.command(epilog=examples("sudo -u keyd keyd ledger backup /srv/backup/keyd-$(date +%F).db"))
@click.argument("target", type=_PATH)
@config_option
@set_option
@json_option
def backup(*, target: Path, config_path: Path, overrides: Mapping[str, str], as_json: bool) -> None:
    """Copy the ledger into the new file TARGET and check the copy. The daemon may run.

    Never back up the anchor along with it: restored together they notice nothing.
    """
    settings = load_settings(config_path, os.environ, overrides)
    with progress("copying the ledger"):
        made = make_backup(settings.daemon.ledger, target)
    emit(as_json, {"file": str(target), **_backup_data(made)}, f"{target}\n{_backup_words(made)}")


@ledger.command(epilog=examples("sudo -u keyd keyd ledger restore /srv/backup/keyd-2026-11-21.db"))
@click.argument("source", type=_PATH)
@config_option
@set_option
@json_option
def restore(
    *, source: Path, config_path: Path, overrides: Mapping[str, str], as_json: bool
) -> None:
    """Put a backup in the ledger's place; the daemon must be stopped.

    What was there stays beside it under another name. The daemon then refuses to sign if its anchor
    has seen more than the backup knows: see keyd ledger repair.
    """
    settings = load_settings(config_path, os.environ, overrides)
    with progress("restoring the ledger"):
        made = restore_backup(source, settings.daemon.ledger, SystemClock().now())
    directory = str(settings.daemon.ledger)
    emit(
        as_json, {"ledger": directory, **_backup_data(made)}, f"{directory}\n{_backup_words(made)}"
    )


def _backup_data(made: Backup) -> dict[str, object]:
    return {
        "ledger_id": made.identity.ledger_id,
        "origin": made.identity.origin,
        "log_size": made.log_size,
        "root": made.root.hex(),
        "file_bytes": made.file_bytes,
    }


def _backup_words(made: Backup) -> str:
    return facts(
        {
            "log": made.identity.origin,
            "entries": made.log_size,
            "root": made.root.hex(),
            "bytes": made.file_bytes,
        }
    )


@ledger.command(
    epilog=examples(
        "sudo -u keyd keyd ledger verify",
        "keyd ledger verify --verifier-key keyd.example.com/log+1a2b3c4d+AZ…",
    )
)
@click.option(
    "--verifier-key",
    "verifier_keys",
    multiple=True,
    metavar="NAME+HASH+KEY",
    help="Verifier key of the log, kept elsewhere (repeatable); default: the registered ones.",
)
@config_option
@set_option
@json_option
def verify(
    *,
    verifier_keys: tuple[str, ...],
    config_path: Path,
    overrides: Mapping[str, str],
    as_json: bool,
) -> int:
    """Recompute everything in the ledger from its raw log entries. The daemon may run.

    Hashes, payload digests, signatures, checkpoints, the anchor. Exits with 1 if anything differs.
    """
    settings = load_settings(config_path, os.environ, overrides)
    with progress("verifying the ledger"):
        report = verify_ledger(
            settings.daemon.ledger,
            anchor=settings.daemon.anchor,
            log_keys=[parse_verifier(key) for key in verifier_keys],
        )
    return show_report(report, as_json)


@ledger.command(epilog=examples("sudo -u keyd keyd ledger export /srv/keyd-log"))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--no-payloads", is_flag=True, help="Leave out payloads: some may be unpublished.")
@config_option
@set_option
@json_option
def export(
    *,
    target: Path,
    no_payloads: bool,
    config_path: Path,
    overrides: Mapping[str, str],
    as_json: bool,
) -> None:
    """Write the log into the new directory TARGET, for those who need not trust this ledger.

    Entries byte for byte, the newest checkpoint, public keys and payloads. The daemon may run.
    keyd audit verify --export checks it anywhere.
    """
    settings = load_settings(config_path, os.environ, overrides)
    with progress("exporting the log"):
        done = export_log(settings.daemon.ledger, target, payloads=not no_payloads)
    data = {
        "directory": str(target),
        "entries": done.entries,
        "keys": done.keys,
        "payloads": done.payloads,
        "checkpoint": done.checkpoint.note,
    }
    emit(as_json, data, f"{target}: {done.entries} entries, {done.payloads} payloads")


def _marks(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> Mapping[tuple[str, str], int]:
    """`--raise demo/snapshot=17` as {("demo", "snapshot"): 17}."""
    marks = {}
    for value in values:
        place, _, version = value.rpartition("=")
        repository, slash, role = place.partition("/")
        if not (repository and slash and role and version.isdecimal()):
            raise click.BadParameter(f"{value!r} is not of the form REPOSITORY/ROLE=VERSION")
        marks[repository, role] = int(version)
    return marks


@ledger.command(
    epilog=examples(
        "sudo -u keyd keyd ledger repair",
        "sudo -u keyd keyd ledger repair --raise demo/timestamp=812 --replace-anchor",
    )
)
@click.option(
    "--raise",
    "raise_to",
    multiple=True,
    callback=_marks,
    metavar="REPOSITORY/ROLE=VERSION",
    help="Highest version that was published, if the anchor does not know it (repeatable).",
)
@click.option(
    "--replace-anchor", is_flag=True, help="Begin a new anchor: the old one is lost or damaged."
)
@click.option("--confirm", metavar="LEDGER", help="The ledger's directory, instead of being asked.")
@config_option
@set_option
@json_option
def repair(
    *,
    raise_to: Mapping[tuple[str, str], int],
    replace_anchor: bool,
    confirm: str | None,
    config_path: Path,
    overrides: Mapping[str, str],
    as_json: bool,
) -> None:
    """Let a ledger that is older than its anchor sign again, by raising its marks.

    Every version that the anchor saw, or that --raise names, counts as used from then on. The
    repair is recorded in the log, which goes on under a new name. Open proposals are cancelled. The
    daemon must be stopped.

    Key states, officers, role rules and the policy are as the ledger knew them at its backup: they
    are listed, and what was changed since must be changed again before the first signature.
    """
    settings = load_settings(config_path, os.environ, overrides)
    directory = settings.daemon.ledger
    consequence = f"Versions up to the marks of {directory} will count as used, for ever."
    confirm_name(str(directory), confirm, consequence)
    with progress("repairing the ledger"):
        done = repair_ledger(
            directory,
            clock=SystemClock(),
            principal=f"uid:{os.getuid()}",
            anchor=settings.daemon.anchor,
            raise_to=raise_to,
            replace_anchor=replace_anchor,
        )
    _report(done, as_json)


def _report(done: Repaired, as_json: bool) -> None:
    data = {
        "refusal": done.refusal,
        "raised": [str(one) for one in done.raised],
        "cancelled_proposals": list(done.cancelled),
        "keys": {key.name: key.state.value for key in done.keys},
        "officers": {officer.name: officer.state.value for officer in done.officers},
        "log_index": done.leaf,
        "origin": done.origin,
        "previous_origin": done.previous_origin,
    }
    say(f"it had refused: {done.refusal}" if done.refusal else "it had not refused")
    say(
        "key states, officers, role rules and policy are as they were at the backup: what was "
        "changed since must be changed again before the first signature"
    )
    lines = [
        f"recorded as entry {done.leaf} of {done.origin}",
        *map(str, done.raised),
        *(f"proposal {name}: CANCELLED" for name in done.cancelled),
        *(f"key {key.name}: {key.state.value}" for key in done.keys),
        *map(_officer_line, done.officers),
    ]
    emit(as_json, data, "\n".join(lines))


def _officer_line(officer: Officer) -> str:
    keys = ", ".join(f"{key.fingerprint[:16]} {key.state.value}" for key in officer.keys)
    return f"officer {officer.name}: {officer.state.value} ({keys})"
