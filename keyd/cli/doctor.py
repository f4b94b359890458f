"""`keyd doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import click

from keyd.cli.diagnosis.client import look_at_daemon
from keyd.cli.diagnosis.finding import Check, Verdict
from keyd.cli.diagnosis.host import look_at_host
from keyd.cli.diagnosis.installation import look_at_installation
from keyd.cli.exits import Exit
from keyd.cli.options import config_option, examples, json_option, set_option
from keyd.cli.output import emit, plain, progress, say
from keyd.cli.remote import profile_option

_COLOURS = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "red",
    Verdict.SKIP: "bright_black",
}


@click.command(
    epilog=examples(
        "keyd doctor", "keyd doctor --json > diagnosis.json", "sudo -u keyd keyd doctor"
    )
)
@config_option
@set_option
@profile_option
@json_option
def doctor(*, config_path: Path, overrides: Mapping[str, str], profile: str, as_json: bool) -> int:
    """Find out what is wrong and how to mend it.

    Looks at this host, at a daemon through the client profile, and at the installation if there is
    a configuration here. Presents no PIN and changes nothing, but asks the daemon for a signed
    checkpoint. The output holds no secrets. Exits with 1 if anything fails.
    """
    with progress("looking"):
        checks = list(_look(config_path, overrides, profile))
    count = Counter(check.verdict for check in checks)
    ok = not count[Verdict.FAIL]
    data = {"ok": ok, "checks": [asdict(check) for check in checks]}
    emit(as_json, data, "\n".join(_line(check) for check in checks))
    say(", ".join(f"{count[verdict]} {verdict}" for verdict in Verdict if count[verdict]))
    return Exit.DONE if ok else Exit.FAILED


def _look(config_path: Path, overrides: Mapping[str, str], profile: str) -> Iterator[Check]:
    yield from look_at_host()
    yield from look_at_installation(config_path, overrides)
    yield from look_at_daemon(profile)


def _line(check: Check) -> str:
    verdict = click.style(f"{check.verdict:<4}", fg=_COLOURS[check.verdict])
    line = f"{verdict}  {plain(f'{check.name}: {check.message}')}"
    return f"{line}\n      fix: {plain(check.fix)}" if check.fix else line
