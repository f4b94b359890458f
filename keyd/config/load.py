"""Reading the configuration: the file, overridden by KEYD_* variables, overridden by flags."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from keyd.config.checks import contradictions
from keyd.config.files import parse_toml, read_trusted
from keyd.config.problems import ConfigurationError, from_validation, pointer, problem
from keyd.config.settings import Settings
from keyd.errors import Finding

PREFIX = "KEYD_"


def load_settings(path: Path, environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read, override, validate. `flags` maps dotted settings ("daemon.ledger") to their text.

    Raises: ConfigurationError with every problem found.
    """
    document = parse_toml(path, read_trusted(path))
    findings = _override(document, _from_environment(environment))
    findings += _override(
        document, {name: (value, f"--set {name}") for name, value in flags.items()}
    )
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(path, findings + from_validation(error)) from error
    findings += contradictions(settings)
    if findings:
        raise ConfigurationError(path, findings)
    return settings


def variables() -> dict[str, str]:
    """Every variable that overrides a setting: KEYD_DAEMON_LEDGER → daemon.ledger."""
    return {PREFIX + name.upper().replace(".", "_"): name for name in _scalars(Settings)}


def _scalars(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings that hold one value, with their types."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section:
            found |= _scalars(section, f"{prefix}{name}.")
        elif prefix and not _is_list(field.annotation):
            found[prefix + name] = field.annotation
    return found


def _section(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    sections = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    return sections[0] if sections else None


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in {tuple, dict}


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Overrides by dotted name, with where they came from.

    A misspelt variable of one of our sections would silently do nothing, so it is kept under its
    own name for `_override` to object to.
    """
    known = variables()
    sections = tuple(f"{PREFIX}{name.upper()}_" for name in Settings.model_fields)
    return {
        known.get(variable, variable): (value, variable)
        for variable, value in environment.items()
        if variable.startswith(sections)
    }


def _override(document: dict[str, Any], values: Mapping[str, tuple[str, str]]) -> list[Finding]:
    scalars = _scalars(Settings)
    findings = []
    for name, (text, source) in values.items():
        if name not in scalars:
            findings.append(problem("OVERRIDE_UNKNOWN", "", f"{source} overrides no setting"))
            continue
        *sections, member = name.split(".")
        table: Any = document
        for section in sections:
            table = table.setdefault(section, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[member] = _typed(scalars[name], text)
        else:
            findings.append(problem("SETTING_INVALID", pointer(*sections), "must be a table"))
    return findings


def _typed(annotation: Any, text: str) -> object:
    """`text` as the setting's type; unfitting text stays text, which validation then refuses."""
    if annotation is bool:
        return {"true": True, "false": False}.get(text, text)
    if annotation in {int, float} and text.isascii():
        try:
            return annotation(text)
        except ValueError:
            return text
    return text
