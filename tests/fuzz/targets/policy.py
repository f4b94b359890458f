"""Policy files: all problems typed, and nobody is allowed anything that no grant names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from keyd.config.policy_file import parse_policy
from keyd.config.problems import ConfigurationError
from keyd.domain.methods import METHODS
from keyd.domain.policy import Action, Caller, Policy, decide, may_call
from tests.fuzz.targets import outcome

DICTIONARY = "policy.dict"
_PATH = Path("policy.toml")
_STRANGER = Caller("unix:stranger", local_admin=False)
_ACTION = Action("SigningService.SignMetadata", "demo", "timestamp", "online-1", "hsm")


def check(data: bytes) -> None:
    policy = outcome(ConfigurationError, parse_policy, data, _PATH)
    if isinstance(policy, ConfigurationError):
        assert policy.findings
        for finding in policy.findings:
            assert finding.reason
            finding.message.encode(errors="backslashreplace")
        return
    assert policy.revision == hashlib.sha256(data).hexdigest()
    _check_lines(policy, data)
    _check_decisions(policy)


def _check_lines(policy: Policy, data: bytes) -> None:
    lines = data.decode().split("\n")
    for grant in policy.grants:
        assert "grant" in lines[grant.line - 1]


def _check_decisions(policy: Policy) -> None:
    named = {principal for grant in policy.grants for principal in grant.principals}
    for principal in (*sorted(named), _STRANGER.principal):
        caller = Caller(principal, local_admin=False)
        decision = decide(policy, caller, _ACTION)
        if decision.allowed:
            assert decision.grant is not None
            assert principal in decision.grant.principals
            assert _ACTION.method in decision.grant.methods
            assert may_call(policy, caller, _ACTION.method)
    if _STRANGER.principal not in named:
        assert not any(may_call(policy, _STRANGER, method) for method in METHODS)
