"""What a verification found, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from keyd.cli.exits import Exit
from keyd.cli.output import emit, facts, plain, say
from keyd.ledger.verification.report import Report


def show_report(report: Report, as_json: bool, more: Mapping[str, str | int] | None = None) -> Exit:
    """Print every flaw and all counts; `more` are further members. Returns DONE if it is sound."""
    for flaw in report.flaws:
        say(plain(str(flaw)))
    counted = {**asdict(report), **(more or {}), "root": report.root.hex()}
    shown = {name.replace("_", " "): value for name, value in counted.items() if name != "flaws"}
    if report.unverified:
        shown["unverified"] = f"{report.unverified}, for want of payloads or keys"
    verdict = "sound" if report.sound else "NOT SOUND"
    emit(as_json, {"ok": report.sound, **counted}, facts({"verdict": verdict, **shown}))
    return Exit.DONE if report.sound else Exit.FAILED
