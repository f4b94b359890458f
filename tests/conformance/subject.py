"""The tokens that a conformance run is about: SoftHSM and NSS, or what KEYD_CONFORMANCE names.

KEYD_CONFORMANCE is a TOML file with ``module``, ``uri``, ``pin_file`` and, if need be, ``schemes``
(TUF names; default: all that keyd knows), ``rsa_bits``, and settings of the same names as in keyd's
configuration: ``sessions``, ``module_parameters``, ``waive_local``, ``sandbox``,
``sign_timeout_s``, ``generate_timeout_s``, ``environment``. The run leaves its keys on the token.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keyd.backends.config import TokenConfig
from keyd.domain.keys import KeySpec, Scheme
from tests.conformance.nss import NSSToken
from tests.fleets import config_for
from tests.softhsm import SoftHSMToken

NAME = "subject"
_SETTINGS = (
    "sessions",
    "module_parameters",
    "waive_local",
    "sandbox",
    "sign_timeout_s",
    "generate_timeout_s",
    "environment",
)


@dataclass(frozen=True)
class Subject:
    """How to reach the token, and what to expect of it."""

    config: TokenConfig
    specs: tuple[KeySpec, ...]


def configured(path: Path) -> Subject:
    """The subject of a KEYD_CONFORMANCE file."""
    given = tomllib.loads(path.read_text(encoding="utf-8"))
    settings: dict[str, Any] = {"sessions": 0}
    settings |= {name: given[name] for name in _SETTINGS if name in given}
    config = TokenConfig(
        name=NAME,
        module=Path(given["module"]),
        uri=given["uri"],
        pin_source=f"file:{given['pin_file']}",
        **settings,
    )
    schemes = given.get("schemes", [scheme.value for scheme in Scheme])
    return Subject(config, _specs(schemes, given.get("rsa_bits", [2048])))


def softhsm_subject(token: SoftHSMToken) -> Subject:
    """SoftHSM: every scheme keyd knows."""
    config = config_for(token, name=NAME)
    return Subject(config, _specs([scheme.value for scheme in Scheme], [2048]))


def nss_config(token: NSSToken, **changes: object) -> TokenConfig:
    """NSS, whose keys never say truly that they were made on the token."""
    config = TokenConfig(
        name=NAME,
        module=token.module,
        uri=token.uri,
        pin_source=f"file:{token.pin_file}",
        module_parameters=token.parameters,
        waive_local=True,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def nss_subject(token: NSSToken) -> Subject:
    """NSS softokn: every scheme but Ed25519."""
    schemes = [scheme.value for scheme in Scheme if scheme is not Scheme.ED25519]
    return Subject(nss_config(token), _specs(schemes, [2048]))


def _specs(schemes: list[str], rsa_bits: list[int]) -> tuple[KeySpec, ...]:
    found = []
    for scheme in map(Scheme, schemes):
        sizes = rsa_bits if scheme.is_rsa else [0]
        found += [KeySpec(scheme, bits) for bits in sizes]
    return tuple(found)
