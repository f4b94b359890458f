"""`keyd proposal`: operations that wait for officers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keyd.cli import carrying_out, proposing
from keyd.cli import case as cases
from keyd.cli.case import Case
from keyd.cli.case_officers import listed
from keyd.cli.deciding import decided, deciding_options, opener
from keyd.cli.metadata_files import read_file, write_file
from keyd.cli.options import examples, json_option
from keyd.cli.output import emit, facts, plain, progress, table
from keyd.cli.remote import confirm_name, connect, dicts, profile_option
from keyd.domain import approval, operations
from keyd.domain.approval import Decision, Statement
from keyd.domain.keys import KeyState, Scheme
from keyd_client import Client
from keyd_client.messages import Proposal, RuleStanding, as_dict, label

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def proposal() -> None:
    """Propose what needs officers, and decide on it."""


@proposal.command(
    epilog=examples(
        "keyd proposal create --sign 2.root.json",
        "keyd proposal create --key-state root-1 DESTROYED",
        "keyd proposal create --create-key root-4 hsm ed25519 tuf",
        "keyd proposal create --void targets 7 --repository demo",
        "keyd proposal create --accept-policy policy.toml",
    )
)
@click.option("--sign", "sign", type=_FILE, help="Have this metadata file signed.")
@click.option(
    "--key-state",
    type=(str, click.Choice([state.value for state in KeyState])),
    metavar="KEY STATE",
    help="Take a key to another state; only DEACTIVATED and COMPROMISED keys can be DESTROYED.",
)
@click.option(
    "--create-key",
    type=(str, str, click.Choice([each.value for each in Scheme]), click.Choice(["tuf", "opaque"])),
    metavar="NAME TOKEN SCHEME CONTENT",
    help="Make a key pair on a token, for tuf or opaque content.",
)
@click.option(
    "--rsa-bits", type=click.Choice(["2048", "3072", "4096"]), help="With --create-key: RSA size."
)
@click.option(
    "--sign-opaque",
    type=(str, _FILE),
    metavar="KEY FILE",
    help="Have these bytes signed by an opaque key.",
)
@click.option(
    "--void", type=(str, int), metavar="ROLE VERSION", help="Free a version for another payload."
)
@click.option(
    "--elsewhere",
    type=click.IntRange(0),
    default=0,
    help="With --void: keys held elsewhere, or stolen, that are known not to have signed.",
)
@click.option("--accept-policy", type=_FILE, help="Let this policy file hold although it loosens.")
@click.option("--base-rule", type=click.IntRange(1), help="How many officers a loosening needs.")
@click.option(
    "--operation",
    type=_FILE,
    help="Any operation, as canonical JSON (docs/reference/operations.md).",
)
@click.option(
    "--payload", type=_FILE, help="With --operation: the metadata, plan or policy that it names."
)
@click.option("--repository", default="", help="Repository; default: the profile's.")
@click.option("--role", default="", help="With --sign: role; default: told by the file.")
@click.option(
    "--days", type=click.IntRange(1, 30), default=7, show_default=True, help="How long it waits."
)
@profile_option
@json_option
def create(
    *,
    payload: Path | None,
    repository: str,
    role: str,
    rsa_bits: str | None,
    elsewhere: int,
    days: int,
    profile: str,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Propose an operation; while an open proposal of the same stands, that one is shown."""
    kind = proposing.one_of({f"--{name.replace('_', '-')}": each for name, each in chosen.items()})
    with connect(profile) as client, progress("proposing"):
        content = b""
        match kind:
            case "--sign":
                operation, content = proposing.signing(client, chosen["sign"], repository, role)
            case "--key-state":
                operation = proposing.key_state(client, *chosen["key_state"])
            case "--create-key":
                operation = proposing.creating(*chosen["create_key"], rsa_bits=rsa_bits)
            case "--sign-opaque":
                operation = proposing.signing_opaque(client, *chosen["sign_opaque"])
            case "--void":
                operation = proposing.voiding(
                    client, repository, *chosen["void"], elsewhere=elsewhere
                )
            case "--accept-policy":
                operation, content = proposing.policy(chosen["accept_policy"])
            case "--base-rule":
                operation = proposing.base_rule(chosen["base_rule"])
            case _:
                operation, content = proposing.written(chosen["operation"], payload)
        made = client.proposals.create(
            operations.encode(operation), content, lifetime_s=days * 86_400
        )
    show_standing(made, as_json)


@proposal.command("list", epilog=examples("keyd proposal list", "keyd proposal list --all --json"))
@click.option("--all", "all_states", is_flag=True, help="Decided ones as well.")
@profile_option
@json_option
def list_proposals(*, all_states: bool, profile: str, as_json: bool) -> None:
    """List open proposals."""
    with connect(profile) as client, progress("listing proposals"):
        found = list(client.proposals.list(all_states=all_states))
    rows = [(each.name, standing_words(each), each.words, each.proposer) for each in found]
    headers = ("NAME", "STANDS", "OPERATION", "PROPOSER")
    emit(as_json, {"proposals": dicts(found)}, table(headers, rows))


@proposal.command(epilog=examples("keyd proposal show p-…", "keyd proposal show p-… --json"))
@click.argument("name")
@click.option("--payload", type=_FILE, help="Your own copy of the metadata, plan or policy.")
@click.option("--trusted", type=_FILE, help="Your own copy of the trusted version, or policy.")
@profile_option
@json_option
def show(
    *, name: str, payload: Path | None, trusted: Path | None, profile: str, as_json: bool
) -> None:
    """Show what a proposal does, computed here from its bytes, and who is missing."""
    with connect(profile) as client, progress(f"fetching {name}"):
        case, found = _case(client, name)
    judged = cases.judge(cases.with_own_files(case, payload, trusted))
    text = "\n".join((*judged.lines(), _standing_text(found)))
    emit(as_json, {"proposal": as_dict(found), "judged": judged.data()}, text)


@proposal.command(
    epilog=examples(
        "keyd proposal approve p-… --officer alice --key pkcs11:token=alice --module /usr/lib/m.so"
    )
)
@click.argument("name")
@click.option("--officer", required=True, help="Your name among the officers.")
@deciding_options
@profile_option
@json_option
def approve(**options: Any) -> None:
    """Approve a proposal with your own key, after its difference was shown."""
    _decide(Decision.APPROVE, **options)


@proposal.command(epilog=examples("keyd proposal reject p-… --officer bob --key file:bob.key"))
@click.argument("name")
@click.option("--officer", required=True, help="Your name among the officers.")
@deciding_options
@profile_option
@json_option
def reject(**options: Any) -> None:
    """Reject a proposal with your own key."""
    _decide(Decision.REJECT, **options)


def _decide(
    decision: Decision,
    *,
    name: str,
    officer: str,
    payload: Path | None,
    trusted: Path | None,
    without_difference: bool,
    confirm: str | None,
    profile: str,
    as_json: bool,
    **key: Any,
) -> None:
    with connect(profile) as client:
        case = cases.with_own_files(_case(client, name)[0], payload, trusted)
        statement = Statement(officer, decision, case.basis)
        envelope = decided(
            case, statement, confirm, opener(**key), without_difference=without_difference
        )
        show_standing(client.proposals.decide(name, envelope), as_json)


@proposal.command(epilog=examples("keyd proposal statement p-… --officer alice --out p-….json"))
@click.argument("name")
@click.option("--officer", required=True, help="Name of the officer who will decide.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file."
)
@profile_option
@json_option
def statement(*, name: str, officer: str, out: Path, profile: str, as_json: bool) -> None:
    """Write everything an officer needs to decide offline (keyd approve) into a file."""
    with connect(profile) as client, progress(f"fetching {name}"):
        case, _ = _case(client, name)
    digest = cases.judge(case).digest.hex()
    write_file(out, cases.encode(case, officer))
    emit(as_json, {"proposal": name, "officer": officer, "file": str(out), "digest": digest}, "")


@proposal.command("import", epilog=examples("keyd proposal import alice.dsse"))
@click.argument("envelope", type=_FILE)
@profile_option
@json_option
def import_envelope(*, envelope: Path, profile: str, as_json: bool) -> None:
    """Hand in the envelope that keyd approve wrote."""
    content = read_file(envelope)
    stated, _ = approval.read(content)
    with connect(profile) as client:
        show_standing(client.proposals.decide(stated.basis.proposal, content), as_json)


@proposal.command(
    epilog=examples(
        "keyd proposal execute p-… --confirm p-…",
        "keyd proposal execute p-… --key root-1 --key root-2 --output 2.root.json",
        "keyd proposal execute p-… --data layout.bin",
    )
)
@click.argument("name")
@click.option("--key", "keys", multiple=True, help="To sign metadata: with this key (repeatable).")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="To sign metadata: write the file here.",
)
@click.option("--data", type=_FILE, help="To sign opaque bytes: these.")
@click.option("--confirm", metavar="NAME", help="The proposal's name once more.")
@profile_option
@json_option
def execute(
    *,
    name: str,
    keys: tuple[str, ...],
    output: Path | None,
    data: Path | None,
    confirm: str | None,
    profile: str,
    as_json: bool,
) -> None:
    """Do what an approved proposal says.

    Metadata is signed by the keys that you name; executed again, further keys add theirs. A new
    key takes as long as its token needs.
    """
    with connect(profile) as client:
        judged = cases.judge(_case(client, name)[0])
        carrying_out.check_options(judged, keys, output, data)
        confirm_name(name, confirm, carrying_out.consequence(judged, keys))
        if data is not None:
            opaque = carrying_out.sign_opaque(client, judged, data)
            emit(as_json, {"signatures": dicts([opaque])}, opaque.signature.hex())
            return
        if not keys:
            show_standing(client.proposals.execute(name), as_json)
            return
        made = carrying_out.sign(client, judged, keys)
        if output is not None:
            carrying_out.write_signed(client, judged, output)
        found = client.proposals.get(name, payloads=False).proposal
    content = {"proposal": as_dict(found), "signatures": dicts(made)}
    emit(as_json, content, carrying_out.signed_words(made, output))


@proposal.command(epilog=examples("keyd proposal cancel p-…"))
@click.argument("name")
@profile_option
@json_option
def cancel(*, name: str, profile: str, as_json: bool) -> None:
    """Take a proposal back."""
    with connect(profile) as client:
        show_standing(client.proposals.cancel(name), as_json)


def _case(client: Client, name: str) -> tuple[Case, Proposal]:
    """A proposal to be judged; the officers of now are not those of one that is over."""
    answer = client.proposals.get(name)
    found = answer.proposal
    stands = label(found, "state") == "OPEN" and not found.stale
    return cases.case_of(answer, listed(client) if stands else None), found


def propose(client: Client, operation: operations.Operation, as_json: bool) -> None:
    """Propose an operation without a payload and show where it stands."""
    show_standing(client.proposals.create(operations.encode(operation)), as_json)


def show_standing(found: Proposal, as_json: bool) -> None:
    """A proposal in short: what, and who is missing."""
    head = facts({"name": found.name, "operation": found.words})
    emit(as_json, {"proposal": as_dict(found)}, f"{head}\n{_standing_text(found)}")


def standing_words(found: Proposal) -> str:
    """Where a proposal stands, in a few words."""
    state = label(found, "state")
    if state != "OPEN":
        return state.lower()
    if found.expired:
        return "expired"
    if found.stale:
        return f"overtaken: {plain(found.stale)} changed"
    if found.approved:
        return "approved"
    return "; ".join(_missing(rule) for rule in found.rules if _lacks(rule)) or "open"


def _standing_text(found: Proposal) -> str:
    said = [f"{plain(each.officer)} {label(each, 'decision').lower()}" for each in found.approvals]
    return facts(
        {
            "stands": standing_words(found),
            "rules": "; ".join(
                f"{plain(rule.words)} ({plain(rule.rule.name)})" for rule in found.rules
            ),
            "said": ", ".join(said),
            "proposer": found.officer or found.proposer,
            "expires": found.expire_time.ToJsonString(),
        }
    )


def _lacks(rule: RuleStanding) -> bool:
    return bool(rule.missing or rule.missing_groups)


def _missing(rule: RuleStanding) -> str:
    persons = [f"{rule.missing} more"] if rule.missing else []
    groups = [f"{count} from {plain(name)}" for name, count in sorted(rule.missing_groups.items())]
    return f"lacks {' and '.join([*persons, *groups])}"
