"""`keyd repo`: TUF repositories as the daemon's rules know them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from keyd.cli.exits import Exit
from keyd.cli.metadata_files import read_file, role_of
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, facts, plain, progress, say, table
from keyd.cli.remote import comment_option, connect, dicts, profile_option, say_finding
from keyd_client.messages import GetRepositoryStateResponse, RoleRules, RoleState, as_dict, label

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_repository_option = click.option(
    "--repository", default="", help="Repository; default: the profile's."
)


@click.group()
def repo() -> None:
    """Register TUF repositories and see their state."""


@repo.command(
    epilog=examples(
        "keyd repo bootstrap demo --root-key root-1 --root-key root-2 --root-key root-3 "
        "--threshold 2"
    )
)
@click.argument("name")
@click.option("--root-key", "root_keys", multiple=True, help="Key meant for root (repeatable).")
@click.option(
    "--foreign-root-key",
    "foreign",
    type=_FILE,
    multiple=True,
    help="File with the TUF key object of a root key that lives elsewhere (repeatable).",
)
@click.option("--threshold", required=True, type=click.IntRange(1), help="Signatures root needs.")
@click.option("--development", is_flag=True, help="Mark it as development for ever: mild rules.")
@profile_option
@json_option
def bootstrap(
    *,
    name: str,
    root_keys: tuple[str, ...],
    foreign: tuple[Path, ...],
    threshold: int,
    development: bool,
    profile: str,
    as_json: bool,
) -> None:
    """Announce a new repository: who may sign root 1 and how many of them must."""
    with connect(profile) as client:
        made = client.repositories.bootstrap(
            name,
            root_keys,
            threshold,
            foreign_root_keys=[read_file(path).decode("utf-8", "replace") for path in foreign],
            development=development,
        )
    words = f"{name}: announced; now sign version 1 of root"
    emit(as_json, {"repository": as_dict(made)}, words)


@repo.command(epilog=examples("keyd repo register demo 1.root.json 2.root.json 3.root.json"))
@click.argument("name")
@click.argument("roots", nargs=-1, required=True, type=_FILE)
@click.option("--development", is_flag=True, help="Mark it as development for ever: mild rules.")
@profile_option
@json_option
def register(
    *, name: str, roots: tuple[Path, ...], development: bool, profile: str, as_json: bool
) -> None:
    """Take in a published repository by its chain of root files, the trust anchor first."""
    with connect(profile) as client, progress(f"registering {name}"):
        answer = client.repositories.register(
            name, [read_file(path) for path in roots], development=development
        )
    for warning in answer.warnings:
        say_finding(warning)
    emit(as_json, as_dict(answer), f"{name}: registered with {len(roots)} roots")


@repo.command("list", epilog=examples("keyd repo list --json"))
@profile_option
@json_option
def list_repositories(*, profile: str, as_json: bool) -> None:
    """List all repositories."""
    with connect(profile) as client:
        found = list(client.repositories.list())
    rows = [
        (r.name, label(r, "stage"), "yes" if r.development else "no", "yes" if r.imported else "no")
        for r in found
    ]
    headers = ("NAME", "STAGE", "DEVELOPMENT", "IMPORTED")
    emit(as_json, {"repositories": dicts(found)}, table(headers, rows))


@repo.command(epilog=examples("keyd repo state demo"))
@click.argument("name", default="")
@profile_option
@json_option
def state(*, name: str, profile: str, as_json: bool) -> None:
    """Show what is trusted, and the version and expiry of every role."""
    with connect(profile) as client:
        found = client.repositories.state(name)
    emit(as_json, {"state": as_dict(found)}, _state(found))


@repo.command(epilog=examples("keyd repo status demo", "keyd repo status --json"))
@click.argument("name", default="")
@profile_option
@json_option
def status(*, name: str, profile: str, as_json: bool) -> int:
    """Show until when each role must be renewed, and by whom.

    Exits with 1 if a renewal should have begun already.
    """
    with connect(profile) as client:
        found = client.repositories.state(name)
    now = datetime.now(UTC)
    rows = [_runway(role, now) for role in found.roles if role.HasField("expire_time")]
    headers = ("ROLE", "EXPIRES", "BEGIN RENEWAL BY", "TAKES", "NEEDS", "")
    late = [row for row in rows if row[-1]]
    text = table(headers, rows)
    emit(as_json, {"roles": dicts(found.roles), "late": [row[0] for row in late]}, text)
    return Exit.FAILED if late else Exit.DONE


def _runway(role: RoleState, now: datetime) -> tuple[str, ...]:
    needs = [*role.renewal_people]
    if role.renewal_approvals:
        needs.append(f"{role.renewal_approvals} officers")
    expires = role.expire_time.ToDatetime(UTC)
    word = "RENEW NOW" if role.begin_renewal_by.ToDatetime(UTC) <= now else ""
    return (
        role.role,
        role.expire_time.ToJsonString(),
        role.begin_renewal_by.ToJsonString(),
        str(timedelta(seconds=role.renewal_s)),
        ", ".join(needs),
        "EXPIRED" if expires <= now else word,
    )


def _state(found: GetRepositoryStateResponse) -> str:
    rows = [
        (
            role.role,
            role.trusted_version,
            role.next_version,
            role.expire_time.ToJsonString() if role.HasField("expire_time") else "",
            f"{role.pending_version} misses {role.pending_missing}" if role.pending_version else "",
        )
        for role in found.roles
    ]
    headers = ("ROLE", "TRUSTED", "NEXT", "EXPIRES", "PENDING")
    first = f"{plain(found.repository.name)}: {label(found.repository, 'stage')}"
    return f"{first}\n{table(headers, rows)}".rstrip()


@repo.command(epilog=examples("keyd repo rules timestamp", "keyd repo rules root --json"))
@click.argument("role")
@_repository_option
@profile_option
@json_option
def rules(*, role: str, repository: str, profile: str, as_json: bool) -> None:
    """Show the rule levels of a role."""
    with connect(profile) as client:
        found = client.repositories.role_rules(role, repository)
    say("the defaults of the role's type:" if found.defaults else "set for this role:")
    emit(as_json, as_dict(found), _rules(found.rules))


@repo.command(
    epilog=examples(
        "keyd repo set-rules timestamp expiry_max_s=604800 --comment weekly",
        "keyd repo set-rules targets extra_members=custom,note",
    )
)
@click.argument("role")
@click.argument("levels", nargs=-1, required=True, metavar="LEVEL=VALUE...")
@_repository_option
@comment_option
@profile_option
@json_option
def set_rules(
    *,
    role: str,
    levels: tuple[str, ...],
    repository: str,
    comment: str,
    profile: str,
    as_json: bool,
) -> None:
    """Change rule levels of a role; those not named stay. Recorded in the audit log.

    Taken from the local administrator's socket only.
    """
    with connect(profile) as client:
        changed = client.repositories.role_rules(role, repository).rules
        for level in levels:
            _set_level(changed, level)
        after = client.repositories.set_role_rules(role, changed, repository, comment=comment)
    emit(as_json, {"rules": as_dict(after)}, _rules(after))


def _set_level(rules: RoleRules, assignment: str) -> None:
    """Put LEVEL=VALUE into the message. Raises: click.UsageError."""
    name, equals, text = assignment.partition("=")
    current = getattr(rules, name, None) if name in as_dict(rules) else None
    if not equals or current is None:
        raise click.UsageError(f"{assignment!r}: levels are {', '.join(as_dict(rules))}")
    if name == "extra_members":
        del rules.extra_members[:]
        rules.extra_members.extend(member for member in text.split(",") if member)
    elif isinstance(current, bool):
        if text not in {"true", "false"}:
            raise click.UsageError(f"{name} is true or false")
        setattr(rules, name, text == "true")
    elif isinstance(current, int):
        if not text.isdecimal() or int(text) >= 2**32:
            raise click.UsageError(f"{name} is a whole number below 2^32")
        setattr(rules, name, int(text))
    else:
        setattr(rules, name, text)


def _rules(rules: RoleRules) -> str:
    shown = {name: value for name, value in as_dict(rules).items() if name != "extra_members"}
    return facts({**shown, "extra_members": ",".join(rules.extra_members)})


@repo.command(
    "import",
    epilog=examples("keyd repo import metadata/*.json", "keyd repo import bins/0=odd-name.json"),
)
@click.argument("files", nargs=-1, required=True, metavar="[ROLE=]FILE...")
@_repository_option
@profile_option
@json_option
def import_files(*, files: tuple[str, ...], repository: str, profile: str, as_json: bool) -> int:
    """Tell the daemon published metadata: thresholds are verified, versions raise the marks.

    Exits with 1 if a file was not recorded.
    """
    contents = []
    for argument in files:
        role, equals, rest = argument.partition("=")
        path = Path(rest if equals else argument)
        contents.append((role if equals else role_of(path), read_file(path)))
    with connect(profile) as client, progress(f"importing {len(contents)} files"):
        imported = client.repositories.import_metadata(contents, repository)
    for one in imported:
        for finding in one.findings:
            where = f"{one.role}: {finding.reason} at {finding.pointer or '/'}"
            say(plain(f"{where}: {finding.message}"))
    rows = [
        (i.role, i.version, "yes" if i.recorded else "NO", "yes" if i.raised_mark else "no")
        for i in imported
    ]
    text = table(("ROLE", "VERSION", "RECORDED", "RAISED MARK"), rows)
    emit(as_json, {"files": dicts(imported)}, text)
    return Exit.DONE if all(one.recorded for one in imported) else Exit.FAILED
