"""`keyd rotate explain`: what happened between two published roots, without a daemon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from keyd.cli.exits import Exit
from keyd.cli.metadata_files import read_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, plain
from keyd.cli.rotation_plan import is_refused, plan_data, plan_table, say_findings
from keyd.domain import metadata_file
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.rotation.explaining import Count, Explanation
from keyd.domain.rotation.explaining import explain as compare
from keyd.errors import InvalidRequest

_COMES_OR_GOES = re.compile(r"(key \S+: )fingerprint: (?:\(absent\) -> |\S+ -> \(absent\)$)")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command(epilog=examples("keyd rotate explain 9.root.json 10.root.json"))
@click.argument("old_file", metavar="OLD", type=_FILE)
@click.argument("new_file", metavar="NEW", type=_FILE)
@json_option
def explain(*, old_file: Path, new_file: Path, as_json: bool) -> int:
    """Show what changed between two published roots, and who signed.

    The plan that this change would have been here, what keyd would have objected, the signatures
    that are there, and what a client does that holds only OLD. Needs no daemon.

    Exits with 1 if keyd would have refused, or such a client does not take NEW.
    """
    # Costs 200 ms, which no other command of the group needs.
    from keyd.rehearsal.successor import meet  # noqa: PLC0415

    (old, old_bytes), (new, new_bytes) = _root(old_file), _root(new_file)
    found = compare(old, new, old_file.name)
    meeting = meet((old.version, old_bytes), (new.version, new_bytes))
    client = _client(old, new, usable=meeting.usable, took=meeting.took)
    say_findings(found.findings)
    data = {
        "plan": plan_data(found.plan, found.findings),
        "change": {"lines": list(found.change.lines), "digest": found.change.digest},
        "signatures": [_count_data(count) for count in found.counts],
        "client": {"takes": meeting.took, "words": client, "said": meeting.said},
    }
    lines = [*plan_table(found.plan), *_more(found, new), client, *_said(meeting.said)]
    emit(as_json, data, "\n".join(lines))
    return Exit.FAILED if is_refused(found.findings) or not meeting.took else Exit.DONE


def _root(path: Path) -> tuple[MetadataFile, bytes]:
    content = read_file(path)
    try:
        found = metadata_file.read(content)
    except InvalidRequest as error:
        raise click.UsageError(f"{path}: {error.reason}: {plain(error.message)}") from error
    if found.payload.signed["_type"] != "root":
        raise click.UsageError(f"{path} is no root: give two root files, the older one first")
    return found, content


def _more(found: Explanation, new: MetadataFile) -> list[str]:
    counts = [f"     {_count(count)}" for count in found.counts]
    return [
        "",
        "what changes:",
        *(f"     {line}" for line in _changes(found.change.lines)),
        "",
        f"signatures on root {new.version}:",
        *counts,
        "",
    ]


def _changes(lines: tuple[str, ...]) -> Iterator[str]:
    """Without the objects of keys that come or go: which ones these are is told by role."""
    whole = {match.group(1) for line in lines if (match := _COMES_OR_GOES.match(line)) is not None}
    yield from (line for line in lines if not line.startswith(tuple(whole)))


def _count(count: Count) -> str:
    missing = f", {count.missing} missing" if count.missing else ""
    names = f": {', '.join(count.signed)}" if count.signed else ""
    return f"{count.which}: {len(count.signed)} of {count.threshold} needed{missing}{names}"


def _count_data(count: Count) -> dict[str, Any]:
    return {
        "which": count.which,
        "threshold": count.threshold,
        "signed": list(count.signed),
        "missing": count.missing,
    }


def _client(old: MetadataFile, new: MetadataFile, *, usable: bool, took: bool) -> str:
    who = f"a client that holds only root {old.version}"
    if not usable:
        return f"no client of today begins with root {old.version}"
    if took:
        return f"{who} takes root {new.version}"
    if new.version != old.version + 1:
        return f"{who} asks for root {old.version + 1} and does not see this one"
    return f"{who} refuses root {new.version}, and gets no updates any more"


def _said(words: str) -> list[str]:
    return [f"     {words}"] if words else []
