"""`keyd rotate`: keys that change hands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from keyd.cli.exits import Exit
from keyd.cli.metadata_files import read_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, plain, progress, say, table
from keyd.cli.remote import comment_option, connect, dicts, profile_option
from keyd.cli.rotation_change import change_of, change_options
from keyd.cli.rotation_explain import explain
from keyd.cli.rotation_plan import (
    is_refused,
    plan_data,
    plan_of_daemon,
    plan_table,
    say_findings,
)
from keyd.cli.rotation_receipt import receipt
from keyd.domain.rotation.plan import Plan
from keyd_client import Client
from keyd_client.messages import (
    GetRotationResponse,
    PlanRotationResponse,
    Rotation,
    RotationChange,
    as_dict,
    label,
)

_OUT = click.Path(path_type=Path, file_okay=False)
_IN = click.Path(path_type=Path, dir_okay=False, exists=True)
_TIMEOUT_S = 60.0
_name_argument = click.argument("name")


@click.group()
def rotate() -> None:
    """Plan and carry out key rotations."""


rotate.add_command(explain)
rotate.add_command(receipt)


@rotate.command(
    epilog=examples(
        "keyd rotate plan timestamp --replace --add timestamp-2@softhsm",
        "keyd rotate plan root --remove root-1 --add root-4@softhsm --threshold 3",
        "keyd rotate plan emergency --role team --compromised team-1 --replace --add team-2@hsm",
    )
)
@change_options
@profile_option
@json_option
def plan(*, profile: str, as_json: bool, **given: Any) -> int:
    """Show what a change would do, and what forbids it. Nothing happens.

    Exits with 1 if it cannot be done.
    """
    with connect(profile) as client:
        answer = client.rotations.plan(_change(client, given))
    found = plan_of_daemon(answer.plan)
    say_findings(found.told)
    data = {"plan": plan_data(found), "exposed": dicts(answer.exposed)}
    emit(as_json, data, "\n".join([*plan_table(found), *_exposed(answer)]))
    return Exit.FAILED if is_refused(found.findings) else Exit.DONE


@rotate.command(
    epilog=examples(
        "keyd rotate start timestamp --replace --add timestamp-2@softhsm --confirm 3f0a…",
    )
)
@change_options
@click.option("--confirm", default="", metavar="DIGEST", help="Digest of the plan that was read.")
@click.option(
    "--grace-hours",
    type=click.IntRange(1, 366 * 24),
    default=24,
    show_default=True,
    help="How long the old keys stay usable after publication.",
)
@profile_option
@json_option
def start(*, confirm: str, grace_hours: int, profile: str, as_json: bool, **given: Any) -> int:
    """Begin a change whose plan was read, and do what can be done at once."""
    with connect(profile) as client:
        change = _change(client, given)
        found = plan_of_daemon(client.rotations.plan(change).plan)
        if is_refused(found.findings):
            say_findings(found.findings)
            emit(as_json, {"plan": plan_data(found)}, "")
            return Exit.FAILED
        _confirm(found, confirm)
        digest = bytes.fromhex(found.digest)
        begun = client.rotations.start(change, digest, grace_s=grace_hours * 3600)
        say(f"{plain(begun.name)}: started")
        return _go_on(client, begun.name, as_json)


@rotate.command("continue", epilog=examples("keyd rotate continue r-abcdefghijklmnopqrstuvwxyz"))
@click.argument("name")
@profile_option
@json_option
def continue_(*, name: str, profile: str, as_json: bool) -> int:
    """Do all steps that can be done now; exits with 75 while something is missing."""
    with connect(profile) as client:
        return _go_on(client, name, as_json)


@rotate.command(epilog=examples("keyd rotate status", "keyd rotate status r-abc… --json"))
@click.argument("name", default="")
@click.option("--repository", default="", help="Repository; default: the profile's.")
@profile_option
@json_option
def status(*, name: str, repository: str, profile: str, as_json: bool) -> None:
    """Show one rotation with its steps, or list those of a repository."""
    with connect(profile) as client:
        if not name:
            found = list(client.rotations.list(repository or client.profile.repository))
            rows = [(r.name, label(r, "kind"), label(r, "state"), r.next) for r in found]
            headers = ("NAME", "KIND", "STATE", "NEXT")
            emit(as_json, {"rotations": dicts(found)}, table(headers, rows))
            return
        one = client.rotations.get(name)
    data = {
        "rotation": as_dict(one.rotation),
        "plan": plan_data(plan_of_daemon(one.plan)),
        "exposed": dicts(one.exposed),
    }
    emit(as_json, data, "\n".join([_rotation(one.rotation), *_exposed(one)]))


@rotate.command(epilog=examples("keyd rotate cancel r-abc… --comment 'wrong token'"))
@_name_argument
@comment_option
@profile_option
@json_option
def cancel(*, name: str, comment: str, profile: str, as_json: bool) -> None:
    """Give a rotation up, before its first payload is accepted."""
    with connect(profile) as client:
        ended = client.rotations.cancel(name, comment)
    emit(as_json, {"rotation": as_dict(ended)}, f"{name}: cancelled")


@rotate.command(
    epilog=examples("keyd rotate upload r-abc… --receipt to-sign/receipt.json --keyid 7a… sig")
)
@_name_argument
@click.option("--receipt", "receipt_file", type=_IN, required=True, help="The receipt's file.")
@click.option("--keyid", required=True, help="TUF key id of the key that signed.")
@click.argument("signature", type=_IN)
@profile_option
@json_option
def upload(
    *, name: str, receipt_file: Path, keyid: str, signature: Path, profile: str, as_json: bool
) -> None:
    """Hand in a signature made elsewhere (raw bytes, or hex as TUF writes it)."""
    content = read_file(signature)
    try:
        made = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        made = content
    with connect(profile) as client:
        answer = client.rotations.upload(name, read_file(receipt_file), keyid, made)
    say("recorded before" if answer.replayed else "recorded")
    emit(as_json, as_dict(answer), _rotation(answer.rotation))


@rotate.command(epilog=examples("keyd rotate files r-abc… --output release"))
@_name_argument
@click.option("--output", type=_OUT, help="Directory for the files.")
@click.option("--published", is_flag=True, help="Say that they are published; fetches nothing.")
@profile_option
@json_option
def files(*, name: str, output: Path | None, published: bool, profile: str, as_json: bool) -> None:
    """Fetch all files of a rehearsed rotation, listed in the order of publication."""
    if published == bool(output):
        raise click.UsageError(
            "either fetch the files (--output), or say that they are --published"
        )
    with connect(profile) as client:
        if output is None:
            said = client.rotations.confirm_published(name)
            emit(as_json, {"rotation": as_dict(said)}, _rotation(said))
            return
        found = client.rotations.files(name)
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for file in found:
        path = output / _file_name(file.role, file.version)
        path.write_bytes(file.content)
        rows.append((path.name, file.content_sha256.hex()))
    listed = [{"file": path, "sha256": digest} for path, digest in rows]
    emit(as_json, {"files": listed}, table(("FILE", "SHA-256"), rows))


def _file_name(role: str, version: int) -> str:
    if "/" in role:
        raise click.UsageError(f"{role!r} cannot be part of a file name")
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def _change(client: Client, given: dict[str, Any]) -> RotationChange:
    change = change_of(given, client.profile.repository)
    if not change.repository:
        raise click.UsageError("name a repository: --repository, or one in the client profile")
    return change


def _confirm(found: Plan, given: str) -> None:
    """Raises: click.UsageError unless the plan's digest was named."""
    digest = found.digest
    if not given:
        say_findings(found.told)
        say("\n".join(plan_table(found)))
        if not os.isatty(0):
            raise click.UsageError(f"read the plan, then add --confirm {digest}")
        given = click.prompt("Type the first 8 digits of the plan's digest to start it", err=True)
        digest = digest[:8]
    if given != digest:
        raise click.UsageError("the plan has another digest: nothing was started; plan it again")


def _go_on(client: Client, name: str, as_json: bool) -> int:
    done: list[str] = []
    while True:
        with progress(f"continuing {name}"):
            answer = client.rotations.go_on(name, timeout_s=_TIMEOUT_S)
        for line in answer.done:
            say(plain(line))
        done += answer.done
        # There may be thousands of bins to sign, more than one call has time for.
        if not answer.done or label(answer.rotation, "state") != "RUNNING":
            break
    answer.done[:] = done
    emit(as_json, as_dict(answer), _rotation(answer.rotation))
    waits = label(answer.rotation, "state") in {"RUNNING", "WAITING"}
    return Exit.TRY_AGAIN if waits else Exit.DONE


def _rotation(found: Rotation) -> str:
    rows = [
        (place, "done" if step.done else "", step.text, "; ".join(step.missing))
        for place, step in enumerate(found.steps, 1)
    ]
    name, repository = plain(found.name), plain(found.repository)
    first = f"{name}: {label(found, 'kind')} of {repository}, {label(found, 'state')}"
    last = f"next: {plain(found.next)}" if found.next else ""
    return "\n".join(
        part for part in (first, table(("STEP", "", "WHAT", "MISSING"), rows), last) if part
    )


def _exposed(found: PlanRotationResponse | GetRotationResponse) -> list[str]:
    """What stolen keys have signed: look at these versions."""
    if not found.exposed:
        return []
    rows = [
        (
            one.key,
            one.role,
            one.version,
            "yes" if one.accepted else "no",
            one.log_index,
        )
        for one in found.exposed
    ]
    first = f"\nsigned by compromised keys, {found.exposed_total} in all:"
    return [first, table(("KEY", "ROLE", "VERSION", "ACCEPTED", "LOG ENTRY"), rows)]
