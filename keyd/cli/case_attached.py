"""Plans and policies, shown from their bytes to the officer who approves their digest."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from keyd.cli.compared import Compared, same
from keyd.cli.metadata_files import read_file
from keyd.domain.loosening import policy_loosened
from keyd.domain.operations import AcceptPolicy, StartRotation
from keyd.domain.policy import Policy
from keyd.domain.rotation.plan import encoded
from keyd.domain.rotation.reading import plan_lines, read_plan
from keyd.errors import InvalidRequest, KeydError

_CONTEXT = 2
_NO_POLICY = Policy("", ())


def plan_compared(operation: StartRotation, payload: bytes, stated: str) -> Compared:
    """The plan, computed from its bytes; `stated` is the digest of them that is approved.

    Raises: InvalidRequest (DIGEST_MISMATCH, PAYLOAD_MISSING, PLAN_UNREADABLE).
    """
    digest = bytes.fromhex(operation.plan_sha256)
    if not _is_there(payload, operation.plan_sha256, stated):
        return Compared(doubts=(_unseen("plan"),), digest=digest)
    plan = read_plan(payload)
    same(plan.change.repository, operation.repository, "repository")
    return Compared("the plan, computed here", plan_lines(plan), digest=digest)


def policy_compared(
    operation: AcceptPolicy, payload: bytes, stated: str, *, trusted: bytes, revision: str
) -> Compared:
    """What a policy file changes about the one in force, whose SHA-256 is `revision`.

    Raises: InvalidRequest (DIGEST_MISMATCH, PAYLOAD_MISSING).
    """
    digest = bytes.fromhex(operation.revision)
    if not _is_there(payload, operation.revision, stated):
        return Compared(doubts=(_unseen("policy"),), digest=digest)
    if not trusted:
        doubt = "the policy in force is not here: what the new one permits more is NOT KNOWN"
        return Compared("the whole policy", tuple(_difference(b"", payload)), (doubt,), digest)
    same(_sha256(trusted), revision, "policy in force")
    doubts: list[str] = []
    before, after = _policy(trusted, "policy in force", doubts), _policy(payload, "policy", doubts)
    looser = [f"permits more: {line}" for line in policy_loosened(before, after)]
    changes = (*looser, *_difference(trusted, payload))
    return Compared(f"changes against the policy {revision}", changes, tuple(doubts), digest)


def own_plan(path: Path) -> bytes:
    """A plan's bytes, or those of the plan in what `keyd rotate plan --json` has printed."""
    content = read_file(path)
    try:
        return encoded(json.loads(content)["plan"]["plan"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return content


def _is_there(payload: bytes, named: str, stated: str) -> bool:
    """Whether the bytes are here. Proposals of an older daemon hold none, and state no digest."""
    if stated:
        same(named, stated, "payload")
    if not payload:
        if stated:
            raise InvalidRequest(
                "PAYLOAD_MISSING", "the payload is not in the statement: give it by --payload FILE"
            )
        return False
    same(_sha256(payload), named, "payload")
    return True


def _unseen(what: str) -> str:
    return f"the {what} is not in the proposal, only its digest: what it does is NOT KNOWN"


def _policy(data: bytes, what: str, doubts: list[str]) -> Policy:
    """The policy that the bytes mean; one that permits nothing, and a doubt, if they mean none."""
    # Costs 100 ms, which no other operation needs.
    from keyd.config.policy_file import parse_policy  # noqa: PLC0415

    try:
        return parse_policy(data, Path("policy.toml"))
    except KeydError as error:
        doubts.append(f"the {what} cannot be read ({error.reason}): what it permits is NOT KNOWN")
        return _NO_POLICY


def _difference(before: bytes, after: bytes) -> Iterator[str]:
    """A unified diff, whose first two lines would name files."""
    old, new = _rows(before), _rows(after)
    yield from list(difflib.unified_diff(old, new, lineterm="", n=_CONTEXT))[2:]


def _rows(data: bytes) -> list[str]:
    """TOML ends lines with LF or CR LF only, while str.splitlines knows several more."""
    return data.decode("utf-8", "backslashreplace").split("\n") if data else []


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
