"""What the two distributions promise about themselves, read from the files that state it."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import keyd
import keyd_client

ROOT = Path(__file__).resolve().parents[2]


def project(folder: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    return table["project"]  # type: ignore[no-any-return]


def requirement_name(line: str) -> str:
    return re.split(r"[\[<>=! ]", line, maxsplit=1)[0].lower().replace("_", "-")


def pins(name: str) -> dict[str, list[str]]:
    """Package to version and hashes, of requirements/`name`.txt."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    entries = [line.split() for line in text.splitlines()]
    return {entry[0].split("==")[0]: entry for entry in entries}


def test_both_distributions_share_one_version() -> None:
    daemon, sdk = project("."), project("client_sdk")
    assert {daemon["version"], sdk["version"], keyd_client.__version__} == {keyd.__version__}
    assert f"keyd-client=={keyd.__version__}" in daemon["dependencies"]


@pytest.mark.parametrize("name", ["runtime", "dev", "protos", "lock"])
def test_every_requirement_is_one_version_with_hashes(name: str) -> None:
    for package, entry in pins(name).items():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*", entry[0]), package
        assert len(entry) > 1, f"{package} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", item) for item in entry[1:]), package


@pytest.mark.parametrize("name", ["runtime", "dev"])
@pytest.mark.parametrize("folder", [".", "client_sdk"])
def test_declared_dependencies_are_pinned(folder: str, name: str) -> None:
    declared = {requirement_name(line) for line in project(folder)["dependencies"]}
    assert declared - {"keyd-client"} <= pins(name).keys()


def test_development_runs_on_the_runtime_pins() -> None:
    development = pins("dev")
    assert {name: entry[0] for name, entry in pins("runtime").items()} == {
        name: development[name][0] for name in pins("runtime")
    }


def test_sdk_needs_no_device_library_and_no_daemon() -> None:
    declared = {requirement_name(line) for line in project("client_sdk")["dependencies"]}
    assert declared.isdisjoint({"keyd", "python-pkcs11", "yubikey-manager", "pyscard", "tuf"})


@pytest.fixture(scope="module")
def check_tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_tree", ROOT / "scripts/check_tree.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "objected"),
    [
        ("cd /" + "work/main", True),
        ("see /" + "root/.config", True),
        ("packages come from py" + "pi.org", True),
        ("deb." + "debian.org", True),
        ("network/" + "work/flow", False),
        ("/home/you/keyd-token", False),
        ("a pypi package of organisations", False),
    ],
)
def test_tree_gate_tells_machine_text_from_prose(
    check_tree: ModuleType, tmp_path: Path, line: str, objected: bool
) -> None:
    path = tmp_path / "text.md"
    path.write_text(f"fine\n{line}\n")
    assert bool(list(check_tree.objections(path))) is objected


def test_tree_gate_wants_no_addresses_in_requirements(
    check_tree: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requirements").mkdir()
    Path("requirements/x.txt").write_text("--index-url https://example.org/simple\na==1\n")
    assert len(list(check_tree.objections(Path("requirements/x.txt")))) == 1
