"""The reference page names every reason, error and call of the SDK, and none that is not there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import keyd_client
from keyd_client import (
    Client,
    KeydRepository,
    KeydSigner,
    PendingApproval,
    Profile,
    errors,
    profile,
)

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "sdk.md").read_text("utf-8")
SOURCE = Path(keyd_client.__file__).parent
_REASON = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"')
# Reasons of the daemon that the SDK looks for.
DAEMONS = {
    "VERSION_ALREADY_SIGNED_DIFFERENTLY",
    "CHANGE_NOT_CONFIRMED",
    "APPROVAL_REQUIRED",
    "QUORUM_UNAVAILABLE",
    "PROPOSAL_STALE",
    "ROTATION_NEEDS_VOID",
}
NO_REASONS = {"KEYD_PROFILE_DIR", "XDG_CONFIG_HOME", "NOT_STARTED", "UNKNOWN_RECORDED"}


def words(text: str) -> set[str]:
    """What stands in code font, without the packages before it."""
    return {word.rpartition(".")[2] for word in re.findall(r"`([\w.]+)[`(]", text)}


def public(kind: object) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_every_reason_is_listed() -> None:
    used = {
        reason for path in SOURCE.rglob("*.py") for reason in _REASON.findall(path.read_text())
    } - NO_REASONS
    table = PAGE.partition("Reasons that the SDK itself gives")[2]
    listed = {word for word in words(table) if word.isupper()} - {"UNIMPLEMENTED"}
    assert listed == used - DAEMONS


def test_every_error_class_is_listed() -> None:
    classes = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.KeydClientError)
    }
    assert classes <= words(PAGE)


def test_every_call_is_listed() -> None:
    for kind in (Client, KeydSigner, PendingApproval):
        own = {name for name in public(kind) if name in vars(kind)} - {"close", "to_sign"}
        assert own <= words(PAGE), kind
    client = Client(Profile("unix:/nowhere"))
    for group in (
        client.keys,
        client.tokens,
        client.repositories,
        client.rotations,
        client.officers,
        client.proposals,
        client.audit,
    ):
        assert public(group) <= words(PAGE), group
    own = {n for n in vars(KeydRepository) if n in public(KeydRepository)}
    python_tufs = {"open", "close", "do_snapshot", "do_timestamp"}
    assert own - python_tufs <= words(PAGE)


def test_every_profile_key_is_listed() -> None:
    table = PAGE.partition("## Profiles")[2].partition("\n##")[0]
    rows = "\n".join(line.partition("|")[2].partition("|")[0] for line in table.splitlines())
    assert words(rows) == set(profile.Profile.__dataclass_fields__)


def test_every_export_resolves_and_is_listed() -> None:
    for name in keyd_client.__all__:
        assert getattr(keyd_client, name) is not None
        assert name in PAGE
