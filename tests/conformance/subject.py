"""The token that a conformance run is about: SoftHSM, or what KEYD_CONFORMANCE names.

KEYD_CONFORMANCE is a TOML file with ``module``, ``uri``, ``pin_file`` and, if need be, ``schemes``
(TUF names; default: what the token says it can do), ``rsa_bits``, ``sessions``, ``sign_timeout_s``,
``generate_timeout_s`` and a table ``environment``. The run leaves its keys on the token.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from keyd.backends.config import TokenConfig
from keyd.domain.keys import KeySpec, Scheme
from tests.fleets import config_for
from tests.softhsm import SoftHSMToken

NAME = "subject"


@dataclass(frozen=True)
class Subject:
    """How to reach the token, and what to expect of it."""

    config: TokenConfig
    specs: tuple[KeySpec, ...]


def configured(path: Path) -> Subject:
    """The subject of a KEYD_CONFORMANCE file."""
    given = tomllib.loads(path.read_text(encoding="utf-8"))
    config = TokenConfig(
        name=NAME,
        module=Path(given["module"]),
        uri=given["uri"],
        pin_source=f"file:{given['pin_file']}",
        sessions=given.get("sessions", 0),
        environment=given.get("environment", {}),
        sign_timeout_s=given.get("sign_timeout_s", TokenConfig.sign_timeout_s),
        generate_timeout_s=given.get("generate_timeout_s", TokenConfig.generate_timeout_s),
    )
    schemes = given.get("schemes", [scheme.value for scheme in Scheme])
    return Subject(config, _specs(schemes, given.get("rsa_bits", [2048])))


def softhsm_subject(token: SoftHSMToken) -> Subject:
    """SoftHSM: every scheme keyd knows."""
    config = config_for(token, name=NAME)
    return Subject(config, _specs([scheme.value for scheme in Scheme], [2048]))


def _specs(schemes: list[str], rsa_bits: list[int]) -> tuple[KeySpec, ...]:
    found = []
    for scheme in map(Scheme, schemes):
        sizes = rsa_bits if scheme.is_rsa else [0]
        found += [KeySpec(scheme, bits) for bits in sizes]
    return tuple(found)
