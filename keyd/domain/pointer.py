"""Where in a payload a finding lies: JSON pointers (RFC 6901) and the refusals that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyd.errors import Finding, InvalidRequest

# One step is (path of the parent, member name or index): cheap enough to build for every value of
# a good payload, while text is made for findings only.
Path = tuple[Any, ...]
TOP: Path = ()

# A hostile payload must not choose the size of its refusal: answers travel in gRPC trailers.
MAX_FINDINGS = 50
_MAX_STEP_CHARS = 200


def pointer_to(path: Path) -> str:
    """Return the JSON pointer of `path`; "" is the whole document.

    A step that is longer than 200 characters or not printable (control characters, lone
    surrogates) ends the pointer: it then names the nearest value around it that can be named.
    """
    pointer = ""
    for step in _steps(path):
        text = str(step)
        if len(text) > _MAX_STEP_CHARS or not text.isprintable():
            break
        pointer += "/" + text.replace("~", "~0").replace("/", "~1")
    return pointer


def _steps(path: Path) -> list[str | int]:
    steps = []
    while path:
        path, step = path
        steps.append(step)
    return steps[::-1]


def malformed(reason: str, path: Path, message: str, *, rule: str = "A1") -> Finding:
    """Return a finding on a payload that no state of keyd could ever accept."""
    return Finding(rule, reason, pointer_to(path), message, malformed=True)


def refusal(findings: Sequence[Finding]) -> InvalidRequest:
    """Return the error for one or more findings; the first gives reason and message."""
    first = findings[0]
    where = f"{first.pointer}: " if first.pointer else ""
    more = f" ({len(findings) - 1} more)" if len(findings) > 1 else ""
    return InvalidRequest(
        first.reason, f"{where}{first.message}{more}", findings=findings[:MAX_FINDINGS]
    )
