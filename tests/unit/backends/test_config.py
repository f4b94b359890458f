"""A module that others could replace, or that logs PINs, is not loaded."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.backends.config import TokenConfig, check_config, credential_file
from keyd.errors import InvalidRequest


@pytest.fixture
def config(tmp_path: Path) -> TokenConfig:
    module = tmp_path / "module.so"
    module.write_bytes(b"module")
    module.chmod(0o755)
    return TokenConfig("hsm", module, "pkcs11:token=hsm;serial=1")


def refused(config: TokenConfig) -> str:
    with pytest.raises(InvalidRequest) as error:
        check_config(config)
    return error.value.reason


def test_a_sound_configuration_names_its_token(config: TokenConfig) -> None:
    uri = check_config(config)
    assert (uri.token, uri.serial) == ("hsm", "1")


def test_the_address_is_checked(config: TokenConfig) -> None:
    assert refused(replace(config, uri="pkcs11:slot-id=1")) == "TOKEN_URI_SLOT_ID"


@pytest.mark.parametrize("module", ["module.so", "/nonexistent/module.so", "/usr", "/dev/null"])
def test_a_module_is_an_absolute_path_of_a_file(module: str, config: TokenConfig) -> None:
    assert refused(replace(config, module=Path(module))) == "TOKEN_MODULE_UNSAFE"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_module_that_others_may_write_is_refused(mode: int, config: TokenConfig) -> None:
    config.module.chmod(mode)
    assert refused(config) == "TOKEN_MODULE_UNSAFE"


def test_so_is_one_in_a_directory_that_others_may_write(config: TokenConfig) -> None:
    directory = config.module.parent / "open"
    directory.mkdir()
    directory.chmod(0o777)
    module = directory / "module.so"
    module.write_bytes(b"module")
    assert refused(replace(config, module=module)) == "TOKEN_MODULE_UNSAFE"
    # Nobody can replace another's file in a sticky directory such as /tmp.
    directory.chmod(0o1777)
    check_config(replace(config, module=module))


def test_a_link_is_judged_by_what_it_points_to(config: TokenConfig) -> None:
    link = config.module.with_name("link.so")
    link.symlink_to(config.module)
    check_config(replace(config, module=link))
    config.module.chmod(0o777)
    assert refused(replace(config, module=link)) == "TOKEN_MODULE_UNSAFE"


def test_so_is_every_link_on_its_way(config: TokenConfig) -> None:
    """Who can turn a link round chooses the module, however safe what it points to now."""
    open_directory = config.module.parent / "open"
    open_directory.mkdir()
    (open_directory / "link.so").symlink_to(config.module)
    outer = config.module.with_name("outer.so")
    outer.symlink_to("open/link.so")
    check_config(replace(config, module=outer))
    open_directory.chmod(0o777)
    assert refused(replace(config, module=outer)) == "TOKEN_MODULE_UNSAFE"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_link_of_another_user_is_refused(config: TokenConfig) -> None:
    link = config.module.with_name("link.so")
    link.symlink_to(config.module)
    os.chown(link, 65534, -1, follow_symlinks=False)
    assert refused(replace(config, module=link)) == "TOKEN_MODULE_UNSAFE"


def test_links_in_a_circle_are_refused(config: TokenConfig) -> None:
    circle = config.module.with_name("circle.so")
    circle.symlink_to("circle.so")
    assert refused(replace(config, module=circle)) == "TOKEN_MODULE_UNSAFE"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_module_of_another_user_is_refused(config: TokenConfig) -> None:
    os.chown(config.module, 65534, -1)
    assert refused(config) == "TOKEN_MODULE_UNSAFE"


def test_a_pinned_hash_must_match(config: TokenConfig) -> None:
    right = hashlib.sha256(b"module").hexdigest()
    check_config(replace(config, module_sha256=right))
    check_config(replace(config, module_sha256=right.upper()))
    assert refused(replace(config, module_sha256="0" * 64)) == "TOKEN_MODULE_HASH"


def test_spies_are_refused_unless_developing(
    config: TokenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = config.module.with_name("pkcs11-spy.so")
    spy.write_bytes(b"module")
    link = config.module.with_name("innocent.so")
    link.symlink_to(spy)
    for module in (spy, link):
        assert refused(replace(config, module=module)) == "TOKEN_MODULE_SPIES"
        check_config(replace(config, module=module, development=True))
    for name in ("PKCS11SPY", "P11_KIT_DEBUG"):
        assert refused(replace(config, environment={name: "x"})) == "TOKEN_MODULE_SPIES"
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            assert refused(config) == "TOKEN_MODULE_SPIES"


def test_a_spy_is_known_by_what_it_holds(config: TokenConfig) -> None:
    """The name of the variable that pkcs11-spy asks for, as its binary holds it."""
    config.module.write_bytes(b"\x7fELF...PKCS11SPY\0...")
    assert refused(config) == "TOKEN_MODULE_SPIES"
    check_config(replace(config, development=True))


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"])
def test_the_worker_loads_nothing_beside_its_module(name: str, config: TokenConfig) -> None:
    changed = replace(config, environment={name: "/usr/lib"})
    assert refused(changed) == "TOKEN_MODULE_SPIES"
    check_config(replace(changed, development=True))


def test_a_pin_file_that_others_could_replace_is_refused(
    config: TokenConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "pins"
    folder.mkdir()
    named = replace(config, pin_source=f"file:{folder}/pin")
    assert credential_file(named, {}) == f"{folder}/pin"
    folder.chmod(0o770)
    with pytest.raises(InvalidRequest, match="chmod go-w") as error:
        credential_file(named, {})
    assert error.value.reason == "TOKEN_PIN_SOURCE"


@pytest.mark.parametrize(
    ("pin_source", "expected"),
    [
        ("prompt", None),
        ("", None),
        ("file:/run/pin", "/run/pin"),
        ("credential:token-pin", "/run/credentials/keyd/token-pin"),
    ],
)
def test_pin_sources(pin_source: str, expected: str | None, config: TokenConfig) -> None:
    chosen = replace(config, pin_source=pin_source)
    check_config(chosen)
    environment = {"CREDENTIALS_DIRECTORY": "/run/credentials/keyd"}
    assert credential_file(chosen, environment) == expected


@pytest.mark.parametrize(
    "pin_source",
    ["1234", "file:pin", "file:", "credential:", "credential:../pin", "credential:..", "env:PIN"],
)
def test_other_pin_sources_are_refused(pin_source: str, config: TokenConfig) -> None:
    assert refused(replace(config, pin_source=pin_source)) == "TOKEN_PIN_SOURCE"


def test_the_address_may_carry_the_pin_source_but_not_both(config: TokenConfig) -> None:
    named = replace(config, uri="pkcs11:token=hsm?pin-source=/run/pin")
    assert credential_file(named, {}) == "/run/pin"
    assert refused(replace(named, pin_source="file:/run/pin")) == "TOKEN_PIN_SOURCE"


def test_a_credential_needs_its_directory(config: TokenConfig) -> None:
    for environment in ({}, {"CREDENTIALS_DIRECTORY": "relative"}):
        with pytest.raises(InvalidRequest):
            credential_file(replace(config, pin_source="credential:pin"), environment)


@pytest.mark.parametrize("sessions", [-1, 65])
def test_sessions_are_bounded(sessions: int, config: TokenConfig) -> None:
    assert refused(replace(config, sessions=sessions)) == "TOKEN_SESSIONS"
