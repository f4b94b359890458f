"""`keyd policy`: what the policy file decides, without a running daemon."""

from __future__ import annotations

import os
from pathlib import Path

import click

from keyd.cli.exits import Exit
from keyd.cli.options import config_option, examples, json_option
from keyd.cli.output import emit
from keyd.config.load import load_settings
from keyd.config.policy_file import load_policy
from keyd.domain.methods import METHODS, Resource
from keyd.domain.policy import Action, Caller, Decision, decide


@click.group()
def policy() -> None:
    """Explain who may do what."""


@policy.command(
    epilog=examples(
        "keyd policy explain --principal unix:admin --method KeyService.ListKeys",
        "keyd policy explain --principal uri:spiffe://example.org/ci \\",
        "    --method SigningService.SignMetadata --repository demo --role timestamp \\",
        "    --key timestamp-1",
    )
)
@config_option
@click.option(
    "--policy",
    "policy_path",
    type=click.Path(path_type=Path),
    help="Policy file; default: the one that the configuration names.",
)
@click.option("--principal", required=True, help='e.g. "unix:admin", "uri:spiffe://…", "dns:…".')
@click.option(
    "--method",
    required=True,
    type=click.Choice(sorted(METHODS)),
    metavar="METHOD",
    help="e.g. SigningService.SignMetadata.",
)
@click.option("--repository", default="", help="Repository that the call touches.")
@click.option("--role", default="", help="Role that it touches.")
@click.option("--key", default="", help="Key that it touches.")
@click.option("--token", default="", help="Token that it touches.")
@json_option
def explain(
    *,
    config_path: Path,
    policy_path: Path | None,
    principal: str,
    method: str,
    repository: str,
    role: str,
    key: str,
    token: str,
    as_json: bool,
) -> int:
    """Name the line of the policy file that allows or comes nearest to allowing a call.

    Exits with 77 if the call is denied.
    """
    action = Action(method, repository, role, key, token)
    _require_resources(action)
    path = policy_path or _configured_policy(config_path)
    in_force = load_policy(path)
    decision = decide(in_force, Caller(principal, False), action)
    data = {
        "allowed": decision.allowed,
        "grant": decision.grant and {"name": decision.grant.name, "line": decision.grant.line},
        "explanation": decision.explanation,
        "file": str(path),
        "revision": in_force.revision,
    }
    emit(as_json, data, _words(decision, path))
    return Exit.DONE if decision.allowed else Exit.NOT_ALLOWED


def _require_resources(action: Action) -> None:
    needed = [resource.value for resource in Resource if resource in METHODS[action.method]]
    missing = [name for name in needed if not getattr(action, name)]
    if missing:
        options = " ".join(f"--{name}" for name in missing)
        raise click.UsageError(f"{action.method} touches a {', a '.join(needed)}: add {options}")


def _configured_policy(config_path: Path) -> Path:
    return load_settings(config_path, os.environ, {}).policy.file


def _words(decision: Decision, path: Path) -> str:
    verdict = "allowed" if decision.allowed else "denied"
    place = f"{path}:{decision.grant.line}" if decision.grant else str(path)
    return f"{place}: {verdict}: {decision.explanation}"
