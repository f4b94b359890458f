"""How everything that is wrong with a file is told in one go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from keyd.errors import Finding, KeydError

_WORDS = {
    "extra_forbidden": "unknown setting; remove it or correct its spelling",
    "missing": "required, but not set",
}


class ConfigurationError(KeydError):
    """A configuration or policy file that must be corrected before keyd uses it."""

    def __init__(self, path: Path | str, findings: Sequence[Finding]) -> None:
        count = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
        listed = "; ".join(finding.message for finding in findings)
        super().__init__("CONFIG_INVALID", f"{path}: {count}: {listed}", findings=findings)
        self.path = str(path)


def problem(reason: str, pointer: str, message: str, *, line: int = 0) -> Finding:
    """One thing to correct; `pointer` is an RFC 6901 pointer into the decoded TOML."""
    details = {"line": str(line)} if line else {}
    return Finding("config", reason, pointer, message, details=details)


def pointer(*members: str | int) -> str:
    """An RFC 6901 JSON pointer."""
    return "".join(f"/{str(member).replace('~', '~0').replace('/', '~1')}" for member in members)


def from_validation(
    error: ValidationError, *, at: tuple[str | int, ...] = (), prefix: str = "", line: int = 0
) -> list[Finding]:
    """pydantic's findings below `at`, in our words where pydantic's would puzzle an operator."""
    findings = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = (*at, *item["loc"])
        dotted = ".".join(str(member) for member in item["loc"])
        words = _WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
        findings.append(
            problem("SETTING_INVALID", pointer(*place), f"{prefix}{dotted}: {words}", line=line)
        )
    return findings
