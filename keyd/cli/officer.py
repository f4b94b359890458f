"""`keyd officer`: the persons who approve, and their keys."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from keyd.cli.case_officers import advice
from keyd.cli.deciding import key_options, opener
from keyd.cli.metadata_files import read_file, write_file
from keyd.cli.officer_keys import FILE_PREFIX, write_key_file
from keyd.cli.options import Command, examples, json_option
from keyd.cli.output import emit, facts, plain, table
from keyd.cli.proposal import propose
from keyd.cli.remote import confirm_name, connect, dicts, profile_option
from keyd.domain.keys import Scheme
from keyd.domain.officers import (
    Officer,
    OfficerKey,
    OfficerKeyKind,
    OfficerKeyState,
    OfficerSet,
    OfficerState,
)
from keyd.domain.operations import ChangeOfficer, SucceedOfficer
from keyd.errors import InvalidRequest, NotFound
from keyd.rpc.convert_officers import officer_in, officers_out
from keyd.rpc.fields import Fields
from keyd_client import Client
from keyd_client.messages import ListOfficersResponse, label

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SCHEMES = [Scheme.ECDSA_P256, Scheme.ED25519]
_public_option = click.option(
    "--public-key", required=True, type=_FILE, help="Public key in PEM (keyd officer key)."
)
_kind_option = click.option(
    "--kind",
    type=click.Choice([kind.value for kind in OfficerKeyKind]),
    default=OfficerKeyKind.PKCS11.value,
    show_default=True,
    help="Where the private half lives; file: development ledgers only.",
)
_NEWCOMER_OPTIONS = (
    _public_option,
    _kind_option,
    click.option("--group", "groups", multiple=True, help="Group of the new person (repeatable)."),
    click.option(
        "--principal",
        "principals",
        multiple=True,
        help="Name that the new person calls the daemon by (repeatable).",
    ),
)
_compromised_option = click.option(
    "--compromised", is_flag=True, help="The old key is, or may be, in other hands."
)


def _newcomer_options(command: Command) -> Command:
    """Options that describe a person to be enrolled, for `_newcomer`."""
    for option in reversed(_NEWCOMER_OPTIONS):
        command = option(command)
    return command


@click.group()
def officer() -> None:
    """Enrol, replace and revoke the persons who approve."""


@officer.command(
    epilog=examples(
        "keyd officer key --key pkcs11:token=alice --module /usr/lib/opensc.so --out alice.pem",
        "keyd officer key --key file:alice.key --make --out alice.pem",
    )
)
@key_options
@click.option("--make", is_flag=True, help="Make the key first: a file, for development.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The PEM file."
)
@json_option
def key(*, key: str, make: bool, out: Path, as_json: bool, **how: Any) -> None:
    """Write the public half of your own key, to be enrolled."""
    if make:
        if not key.startswith(FILE_PREFIX):
            raise click.UsageError("--make makes key files only: use your token's own tool")
        write_key_file(Path(key.removeprefix(FILE_PREFIX)))
    with opener(key, **how)() as signer:
        public = signer.public
    pem = load_der_public_key(public.public_der).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    write_file(out, pem)
    data = {"file": str(out), "scheme": public.scheme.value, "key_sha256": public.fingerprint}
    emit(as_json, data | {"kind": public.kind.value}, facts(data))


@officer.command(epilog=examples("keyd officer genesis officers.toml --confirm officers.toml"))
@click.argument("file", type=_FILE)
@click.option("--confirm", metavar="NAME", help="The file's name once more.")
@profile_option
@json_option
def genesis(*, file: Path, confirm: str | None, profile: str, as_json: bool) -> None:
    """Enrol the first officers, once in the life of a ledger (administrator's socket).

    FILE is TOML: threshold = 2, and for each person an [[officer]] with name, public_key (a PEM
    file beside FILE), kind, and optionally groups and principals.
    """
    people, threshold = _read_genesis(file)
    confirm_name(
        file.name,
        confirm,
        f"{', '.join(each.name for each in people)}: from now on {threshold} of them decide on "
        "every loosening, and nobody can undo that alone.",
    )
    with connect(profile) as client:
        client.officers.enrol_first(officers_out(OfficerSet(people)), threshold)
        _show(client.officers.list(), as_json)


@officer.command("list", epilog=examples("keyd officer list", "keyd officer list --json"))
@profile_option
@json_option
def list_officers(*, profile: str, as_json: bool) -> None:
    """List all officers, revoked ones included."""
    with connect(profile) as client:
        _show(client.officers.list(), as_json)


@officer.command(
    epilog=examples(
        "keyd officer enrol dora --public-key dora.pem --group qa --principal unix:dora"
    )
)
@click.argument("name")
@_newcomer_options
@profile_option
@json_option
def enrol(*, name: str, profile: str, as_json: bool, **person: Any) -> None:
    """Propose to enrol a person."""
    joining = ChangeOfficer.to(_newcomer(name, **person), None)
    with connect(profile) as client:
        propose(client, joining, as_json)


@officer.command(
    epilog=examples("keyd officer succeed bob dora --public-key dora.pem --group qa --compromised")
)
@click.argument("name")
@click.argument("successor")
@_newcomer_options
@_compromised_option
@profile_option
@json_option
def succeed(
    *, name: str, successor: str, compromised: bool, profile: str, as_json: bool, **person: Any
) -> None:
    """Propose to revoke NAME and enrol SUCCESSOR in their place, in one approval."""
    joining = ChangeOfficer.to(_newcomer(successor, **person), None)
    with connect(profile) as client:
        before = _officer(client, name)
        keys = _retired(before, compromised)
        after = replace(before, keys=keys, state=OfficerState.REVOKED)
        leaving = ChangeOfficer.to(after, before)
        operation = SucceedOfficer(leaving.officer, leaving.before, joining.officer)
        propose(client, operation, as_json)


@officer.command("replace", epilog=examples("keyd officer replace alice --public-key new.pem"))
@click.argument("name")
@_public_option
@_kind_option
@_compromised_option
@profile_option
@json_option
def replace_key(
    *, name: str, public_key: Path, kind: str, compromised: bool, profile: str, as_json: bool
) -> None:
    """Propose another key for a person; the old one approves nothing more once it is done."""
    new = _public_key(public_key, kind)
    with connect(profile) as client:
        person = _officer(client, name)
        changed = replace(person, keys=(*_retired(person, compromised), new))
        propose(client, ChangeOfficer.to(changed, person), as_json)


@officer.command(
    epilog=examples("keyd officer revoke alice", "keyd officer revoke bob --compromised")
)
@click.argument("name")
@_compromised_option
@profile_option
@json_option
def revoke(*, name: str, compromised: bool, profile: str, as_json: bool) -> None:
    """Propose that a person approves nothing more, for ever."""
    with connect(profile) as client:
        person = _officer(client, name)
        keys = _retired(person, compromised)
        changed = replace(person, keys=keys, state=OfficerState.REVOKED)
        propose(client, ChangeOfficer.to(changed, person), as_json)


def _newcomer(
    name: str,
    *,
    public_key: Path,
    kind: str,
    groups: tuple[str, ...],
    principals: tuple[str, ...],
) -> Officer:
    """A person with their first key."""
    keys = (_public_key(public_key, kind),)
    return Officer(name, frozenset(groups), frozenset(principals), keys)


def _retired(person: Officer, compromised: bool) -> tuple[OfficerKey, ...]:
    """The person's keys, of which none is active any more."""
    state = OfficerKeyState.COMPROMISED if compromised else OfficerKeyState.REPLACED
    return tuple(
        replace(each, state=state) if each.state is OfficerKeyState.ACTIVE else each
        for each in person.keys
    )


def _officer(client: Client, name: str) -> Officer:
    """Raises: NotFound (OFFICER_UNKNOWN)."""
    for each in client.officers.list().officers:
        if each.name == name:
            fields = Fields()
            found = officer_in(fields, "", each)
            fields.check()
            return found
    raise NotFound("OFFICER_UNKNOWN", f"there is no officer {name!r}; keyd officer list names all")


def _public_key(path: Path, kind: str) -> OfficerKey:
    """A public key in PEM with the scheme that its type is used with. Raises: InvalidRequest."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    try:
        found = load_pem_public_key(read_file(path))
    except ValueError as error:
        raise InvalidRequest("OFFICER_KEY_UNUSABLE", f"{path} holds no public PEM key") from error
    der = found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    is_ed25519 = isinstance(found, Ed25519PublicKey)
    scheme = Scheme.ED25519 if is_ed25519 else Scheme.ECDSA_P256
    return OfficerKey(scheme, der, OfficerKeyKind(kind))


def _read_genesis(path: Path) -> tuple[tuple[Officer, ...], int]:
    try:
        document = tomllib.loads(read_file(path).decode())
        people = tuple(_person(path.parent, entry) for entry in document["officer"])
        if set(document) != {"officer", "threshold"}:
            raise ValueError
        return people, int(document["threshold"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise click.UsageError(
            f"{path} must have threshold and [[officer]] tables with name, public_key, kind, "
            f"groups, principals, and nothing else ({error})"
        ) from error


def _person(folder: Path, entry: dict[str, Any]) -> Officer:
    if extra := set(entry) - {"name", "public_key", "kind", "groups", "principals"}:
        raise ValueError(f"unknown: {', '.join(sorted(extra))}")
    public = _public_key(folder / entry["public_key"], entry.get("kind", "pkcs11"))
    return Officer(
        name=entry["name"],
        groups=frozenset(entry.get("groups", ())),
        principals=frozenset(entry.get("principals", ())),
        keys=(public,),
    )


def _show(found: ListOfficersResponse, as_json: bool) -> None:
    rows = [
        (
            each.name,
            label(each, "state"),
            ", ".join(each.groups),
            ", ".join(each.principals),
            ", ".join(
                f"{one.key_sha256.hex()[:16]} {label(one, 'kind').lower()} {label(one, 'state')}"
                for one in each.keys
            ),
        )
        for each in found.officers
    ]
    text = table(("NAME", "STATE", "GROUPS", "CALLS AS", "KEYS"), rows)
    rule = f"base rule: {found.base_threshold} officers" if found.base_threshold else ""
    reserve = advice(found)
    data = {
        "officers": dicts(found.officers),
        "base_threshold": found.base_threshold,
        "officers_sha256": found.officers_sha256.hex(),
        "advice": reserve,
    }
    note = f"note: {plain(reserve)}" if reserve else ""
    emit(as_json, data, "\n".join(filter(None, (text, rule, note))))
