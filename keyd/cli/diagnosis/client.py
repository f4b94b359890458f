"""A running daemon, asked through a client profile like any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from keyd.cli.case_officers import advice, officers_of
from keyd.cli.diagnosis.certificates import check_certificate
from keyd.cli.diagnosis.finding import Check, failed, passed, skipped, warned
from keyd.cli.remote import connect
from keyd.domain import checkpoint as notes
from keyd.errors import InvalidRequest
from keyd_client import Client
from keyd_client.errors import KeydClientError, NotAllowed, ProfileError
from keyd_client.messages import Key, RoleState, Token, label

_Asking = Callable[[Client, Sequence[Token]], Iterator[Check]]
_TIMEOUT_S = 10.0
# A token that is not online answers UNAVAILABLE, which the client repeats until time is up.
_CHECKPOINT_TIMEOUT_S = 3.0
_TOKEN_FIXES = {
    "PIN_REQUIRED": "keyd token unlock {name}",
    "PIN_LOCKED": "let the token's security officer set a new PIN",
    "QUARANTINED": "find out why (keyd audit list), then keyd token release {name}",
    "OFFLINE": "do what it says; else plug it in, or correct module and uri of the [[token]]",
    "RECOVERING": "wait; keyd token watch shows when it is back",
}


def look_at_daemon(profile: str) -> Iterator[Check]:
    """Profile, connection, tokens, repositories and the log's head."""
    try:
        client = connect(profile)
        found = client.profile
    except ProfileError as error:
        if profile:
            yield failed("profile", error.message, "name a profile that there is")
        else:
            yield skipped("profile", f"no daemon was asked: {error.message}")
        return
    yield passed("profile", found.target)
    if found.certificate is not None:
        yield check_certificate("client certificate", found.certificate)
    with client:
        yield from _ask(client)


def _ask(client: Client) -> Iterator[Check]:
    started = time.monotonic()
    try:
        tokens = client.tokens.list(timeout_s=_TIMEOUT_S)
    except NotAllowed as error:
        yield passed("daemon", "it answers, and does not let this identity list tokens")
        yield skipped("tokens", error.message)
        return
    except KeydClientError as error:
        fix = "start it (systemctl status keyd), or correct the profile's target"
        yield failed("daemon", error.message, fix)
        return
    yield passed("daemon", f"it answers within {(time.monotonic() - started) * 1000:.0f} ms")
    looks: tuple[tuple[str, _Asking], ...] = (
        ("tokens", _tokens_and_keys),
        ("repositories", _repositories),
        ("officers", _officers),
        ("audit log", _log),
    )
    for name, look in looks:
        try:
            yield from look(client, tokens)
        except NotAllowed as error:
            yield skipped(name, error.message)
        except KeydClientError as error:
            yield failed(name, error.message, _fix_of(error))


def _fix_of(error: KeydClientError) -> str:
    if error.reason.startswith(("LEDGER_", "ANCHOR_")):
        return "do what it says; the manual's page on backup and restore tells the steps"
    return "see the daemon's log"


def _tokens_and_keys(client: Client, tokens: Sequence[Token]) -> Iterator[Check]:
    for token in tokens:
        yield _token(token)
    keys = list(client.keys.list(timeout_s=_TIMEOUT_S))
    for token in tokens:
        yield from _holdings(token, [key for key in keys if key.token == token.name])


def _token(token: Token) -> Check:
    name, state = f"token {token.name}", label(token, "state")
    told = f"{state}: {token.manufacturer} {token.model}, firmware {token.firmware or 'unknown'}"
    if state == "ONLINE":
        return passed(name, told)
    told = f"{state}: {token.detail}" if token.detail else state
    return failed(
        name, told, _TOKEN_FIXES.get(state, "see the daemon's log").format(name=token.name)
    )


def _holdings(token: Token, keys: Sequence[Key]) -> Iterator[Check]:
    name = f"keys on {token.name}"
    if token.missing_keys:
        fix = "bring back the token that holds them, or mark them compromised"
        yield failed(name, f"registered, but not there: {', '.join(token.missing_keys)}", fix)
    unable = [key.name for key in keys if token.schemes and key.scheme not in token.schemes]
    if unable:
        fix = "compare the token's mechanisms and firmware with those at registration"
        yield failed(name, f"the token cannot sign any more with {', '.join(unable)}", fix)
    if token.stray_objects:
        fix = f"keyd token keys {token.name} shows them; adopt or remove them"
        yield warned(name, f"{token.stray_objects} key objects are not registered", fix)
    if not (token.missing_keys or unable or token.stray_objects):
        yield passed(name, f"{len(keys)} registered, all there")


def _repositories(client: Client, _tokens: Sequence[Token]) -> Iterator[Check]:
    now = datetime.now(UTC)
    for repository in client.repositories.list(timeout_s=_TIMEOUT_S):
        name = f"repository {repository.name}"
        state = client.repositories.state(repository.name, timeout_s=_TIMEOUT_S)
        expired = [role.role for role in state.roles if _expired(role, now)]
        waiting = [role.role for role in state.roles if role.pending_version]
        if expired:
            fix = "sign new versions: clients refuse expired metadata"
            yield warned(name, f"expired: {', '.join(expired)}", fix)
        if waiting:
            fix = f"keyd repo state {repository.name} tells how many signatures are missing"
            yield warned(name, f"begun, not accepted: {', '.join(waiting)}", fix)
        if not expired and not waiting:
            yield passed(name, f"{label(repository, 'stage')}, {len(state.roles)} roles")


def _expired(role: RoleState, now: datetime) -> bool:
    return role.HasField("expire_time") and role.expire_time.ToDatetime(UTC) <= now


def _officers(client: Client, _tokens: Sequence[Token]) -> Iterator[Check]:
    found = client.officers.list(timeout_s=_TIMEOUT_S)
    able = officers_of(found).able
    if not found.base_threshold:
        yield passed("officers", "none: whoever administers loosens rules alone")
    elif reserve := advice(found):
        fix = "enrol one officer more, or give that caller ProposalService.CreateProposal"
        yield warned("officers", reserve, fix)
    else:
        told = f"{found.base_threshold} of {len(able)} decide, and the loss of one can be mended"
        yield passed("officers", told)


def _log(client: Client, _tokens: Sequence[Token]) -> Iterator[Check]:
    """Asking for a checkpoint makes the log key sign: a signature on the token, end to end."""
    try:
        signed = client.audit.checkpoint(timeout_s=_CHECKPOINT_TIMEOUT_S)
    except KeydClientError as error:
        if error.reason != "LOG_KEY_MISSING":
            raise
        yield warned("audit log", error.message, "set audit.log_token, and have it online")
        return
    try:
        key = notes.parse_verifier(signed.verifier_key)
        head = notes.verify_checkpoint(signed.note, [key])
    except InvalidRequest as error:
        yield failed("audit log", error.message, "stop signing; keyd audit verify tells more")
        return
    told = f"{head.size} entries, head signed by the log key and verified"
    yield passed("audit log", f"{told} (keyd audit verify recomputes all)")
