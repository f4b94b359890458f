"""The reference pages name everything that there is, with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from keyd.cli.exits import Exit
from keyd.cli.main import COMMANDS, cli
from keyd.config.settings import Settings
from keyd.domain.methods import MAY_TOUCH, METHODS

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def _settings(model: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, default) of every setting, lists of tables included."""
    found: list[tuple[str, Any]] = []
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        if inner:
            found += _settings(inner[0], f"{prefix}{name}.")
        else:
            found.append((prefix + name, field.default))
    return found


@pytest.mark.parametrize(("name", "default"), _settings(Settings))
def test_every_setting_is_explained_with_its_default(name: str, default: object) -> None:
    explained = _terms()
    assert name in explained, f"config.md does not explain {name}"
    if default is PydanticUndefined or default is None or default == {}:
        return
    shown = str(default).lower() if isinstance(default, bool) else str(default) or '""'
    assert f"`{shown}`" in explained[name], f"config.md gives no default {shown} for {name}"


def _terms() -> dict[str, str]:
    """Settings to their explanations; one explanation may serve several."""
    text = (REFERENCE / "config.md").read_text() + "\n\n"
    pairs = re.findall(
        r"^(`[a-z0-9_.]+`(?:, `[a-z0-9_.]+`)*)\n: (.*?)\n\n", text, re.MULTILINE | re.DOTALL
    )
    return {name: words for term, words in pairs for name in re.findall(r"`([^`]+)`", term)}


def test_config_page_invents_no_setting() -> None:
    assert set(_terms()) == {name for name, _ in _settings(Settings)}


def test_policy_page_lists_every_method_and_what_it_touches() -> None:
    text = (REFERENCE / "policy.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \|$", text, re.MULTILINE))
    assert set(rows) == set(METHODS)
    for method, touched in rows.items():
        named = set(re.findall(r"\b(repository|role|key|token)\b", touched))
        known = METHODS[method] | MAY_TOUCH.get(method, frozenset())
        assert named == {resource.value for resource in known}, method


def test_cli_page_names_every_command_and_exit_code() -> None:
    text = (REFERENCE / "cli.md").read_text()
    for name in COMMANDS:
        with click.Context(cli) as context:
            command = cli.get_command(context, name)
        assert f"keyd {name}" in text
        for verb in command.commands if isinstance(command, click.Group) else ():
            assert re.search(rf"^\| `keyd {name}[^|]*[` ]{verb}`", text, re.MULTILINE), verb
    for code in Exit:
        assert f"\n| {code.value} | " in text


def test_config_page_explains_every_reason() -> None:
    code = REFERENCE.parents[1] / "keyd"
    sources = [*(code / "config").glob("*.py"), code / "daemon" / "assemble.py"]
    raised = {
        reason
        for source in sources
        for reason in re.findall(r'(?:problem\(|yield )\s*"([A-Z_]+)"', source.read_text())
    }
    assert len(raised) > 15
    page = (REFERENCE / "config.md").read_text()
    assert {reason for reason in raised if f"`{reason}`" not in page} == set()
