"""`keyd key`: key pairs on tokens."""

from __future__ import annotations

import json
from typing import Any

import click

from keyd.cli.options import examples, hexadecimal, json_option
from keyd.cli.output import emit, facts, progress, table
from keyd.cli.remote import comment_option, confirm_name, connect, profile_option
from keyd.domain.keys import Scheme
from keyd_client.messages import Key, as_dict, label

_SCHEMES = click.Choice([scheme.value for scheme in Scheme])
_CONTENTS = click.Choice(["tuf", "opaque"])
_confirm_option = click.option(
    "--confirm", metavar="NAME", help="The key's name once more, instead of being asked for it."
)


@click.group()
def key() -> None:
    """Make, list and retire keys."""


@key.command(
    epilog=examples(
        "keyd key create root-1 --token hsm",
        "keyd key create timestamp-1 --token hsm --scheme ed25519",
        "keyd key create layouts --token hsm --content opaque --json",
    )
)
@click.argument("name")
@click.option("--token", required=True, help="Token that makes and keeps the key.")
@click.option(
    "--scheme", type=_SCHEMES, default=Scheme.ECDSA_P256.value, show_default=True, help="Scheme."
)
@click.option(
    "--rsa-bits", type=click.Choice(["2048", "3072", "4096"]), help="Modulus of RSA keys."
)
@click.option(
    "--content",
    type=_CONTENTS,
    default="tuf",
    show_default=True,
    help="What the key may sign, for ever: TUF metadata, or any bytes that are none.",
)
@profile_option
@json_option
def create(
    *,
    name: str,
    token: str,
    scheme: str,
    rsa_bits: str | None,
    content: str,
    profile: str,
    as_json: bool,
) -> None:
    """Generate a key pair on a token and register it under NAME."""
    with connect(profile) as client, progress(f"generating {name} on {token}"):
        made = client.keys.create(
            name, token, scheme=scheme, rsa_bits=int(rsa_bits or 0), content=content
        )
    _show(made, as_json)


@key.command("list", epilog=examples("keyd key list", "keyd key list --json"))
@profile_option
@json_option
def list_keys(*, profile: str, as_json: bool) -> None:
    """List all keys."""
    with connect(profile) as client, progress("listing keys"):
        found = list(client.keys.list())
    rows = [
        (k.name, label(k, "state"), k.scheme, k.token, label(k, "content").lower(), k.repository)
        for k in found
    ]
    headers = ("NAME", "STATE", "SCHEME", "TOKEN", "CONTENT", "REPOSITORY")
    emit(as_json, {"keys": [_data(one) for one in found]}, table(headers, rows))


@key.command(epilog=examples("keyd key show root-1", "keyd key show root-1 --pem > root-1.pem"))
@click.argument("name")
@click.option("--pem", "form", flag_value="pem", help="Print the public key as PEM, only that.")
@click.option("--tuf", "form", flag_value="tuf", help="Print the TUF key object, only that.")
@profile_option
@json_option
def show(*, name: str, form: str | None, profile: str, as_json: bool) -> None:
    """Show one key and its public half."""
    with connect(profile) as client:
        found = client.keys.get(name)
    if form is None or as_json:
        _show(found, as_json)
    else:
        tuf_key = json.dumps(_data(found)["tuf_key"], indent=1)
        click.echo(found.public_key_pem.rstrip() if form == "pem" else tuf_key)


@key.command(
    epilog=examples(
        "keyd token keys hsm", "keyd key adopt root-1 --token hsm --id 0a1b2c --key-sha256 …"
    )
)
@click.argument("name")
@click.option("--token", required=True, help="Token that holds the key.")
@click.option("--id", "cka_id", required=True, callback=hexadecimal, help="CKA_ID, hexadecimal.")
@click.option("--scheme", type=_SCHEMES, help="Scheme; default: what its type suggests.")
@click.option("--content", type=_CONTENTS, default="tuf", show_default=True, help="As for create.")
@click.option(
    "--key-sha256",
    default="",
    callback=hexadecimal,
    help="Fingerprint that is expected, hexadecimal.",
)
@profile_option
@json_option
def adopt(
    *,
    name: str,
    token: str,
    cka_id: bytes,
    scheme: str | None,
    content: str,
    key_sha256: bytes,
    profile: str,
    as_json: bool,
) -> None:
    """Register a key pair that an operator made on a token, after it proved possession."""
    with connect(profile) as client, progress(f"adopting {name}"):
        adopted = client.keys.adopt(
            name, token, cka_id, scheme=scheme or "", content=content, key_sha256=key_sha256
        )
    _show(adopted, as_json)


@key.command(epilog=examples('keyd key suspend online-1 --comment "host under inspection"'))
@click.argument("name")
@comment_option
@profile_option
@json_option
def suspend(*, name: str, comment: str, profile: str, as_json: bool) -> None:
    """Stop signing with a key until it is resumed."""
    with connect(profile) as client:
        _show(client.keys.suspend(name, comment), as_json)


@key.command(epilog=examples("keyd key resume online-1"))
@click.argument("name")
@comment_option
@profile_option
@json_option
def resume(*, name: str, comment: str, profile: str, as_json: bool) -> None:
    """Let a suspended key sign again."""
    with connect(profile) as client:
        _show(client.keys.resume(name, comment), as_json)


@key.command(epilog=examples("keyd key deactivate root-1 --comment rotated"))
@click.argument("name")
@_confirm_option
@comment_option
@profile_option
@json_option
def deactivate(
    *, name: str, confirm: str | None, comment: str, profile: str, as_json: bool
) -> None:
    """Retire a key for ever; it may still co-sign the root that removes it."""
    confirm_name(name, confirm, f"The key {name} will sign nothing new, for ever.")
    with connect(profile) as client:
        _show(client.keys.deactivate(name, comment), as_json)


@key.command(epilog=examples('keyd key compromise online-1 --comment "laptop stolen"'))
@click.argument("name")
@_confirm_option
@comment_option
@profile_option
@json_option
def compromise(
    *, name: str, confirm: str | None, comment: str, profile: str, as_json: bool
) -> None:
    """Say that a key is or may be stolen: it signs nothing more, and there is no way back."""
    confirm_name(name, confirm, f"The key {name} will be marked as stolen, for ever.")
    with connect(profile) as client:
        _show(client.keys.mark_compromised(name, comment), as_json)


def _data(found: Key) -> dict[str, Any]:
    """A key as plain data; its TUF form as an object, not as text.

    The text is canonical JSON, which holds PEM with raw line feeds, and most JSON readers refuse.
    """
    data = as_dict(found)
    data["tuf_key"] = json.loads(data.pop("tuf_key_json"), strict=False)
    return data


def _show(found: Key, as_json: bool) -> None:
    text = facts(
        {
            "name": found.name,
            "state": label(found, "state"),
            "scheme": found.scheme,
            "modulus": f"{found.rsa_bits} bits" if found.rsa_bits else "",
            "content": label(found, "content").lower(),
            "token": found.token,
            "CKA_ID": found.cka_id.hex(),
            "origin": "adopted" if found.adopted else "generated on the token",
            "repository": found.repository,
            "SHA-256": found.key_sha256.hex(),
            "TUF key id": found.tuf_keyid,
            "created": found.create_time.ToJsonString(),
        }
    )
    emit(as_json, {"key": _data(found)}, text)
