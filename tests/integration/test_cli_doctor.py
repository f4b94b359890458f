"""`keyd doctor`: every fault is found, named, and told with a way to mend it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyd.cli.development.certificates import make_certificates
from keyd.cli.diagnosis.certificates import check_certificate
from keyd.cli.diagnosis.finding import Verdict
from tests.fleets import wait_until
from tests.running import dev, keyd
from tests.softhsm import SoftHSMToken


@pytest.fixture
def config(tmp_path: Path, softhsm: SoftHSMToken) -> Path:
    """An installation with a ledger and a token, and no daemon."""
    assert keyd("init", "--dir", tmp_path / "k").code == 0
    path = tmp_path / "k" / "keyd.toml"
    path.write_text(
        path.read_text().replace("[metrics]\naddress = ", "[metrics]\n# address = ")
        + f"""
[[token]]
name = "hsm"
module = "{softhsm.module}"
uri = "{softhsm.uri}"
pin_source = "file:{softhsm.pin_file}"
environment = {{ SOFTHSM2_CONF = "{softhsm.conf}" }}
"""
    )
    return path


def diagnose(config: Path, *arguments: str, profiles: str = "/nonexistent") -> dict[str, Any]:
    environment = {"KEYD_PROFILE_DIR": profiles, "HOME": profiles, "XDG_CONFIG_HOME": profiles}
    done = keyd("doctor", "--json", "--config", config, *arguments, environment=environment)
    document: dict[str, Any] = done.json
    assert document["version"] == 1
    fails = [one for one in document["checks"] if one["verdict"] == "fail"]
    assert document["ok"] is not bool(fails)
    assert done.code == (1 if fails else 0)
    for one in document["checks"]:
        assert one["fix"] or one["verdict"] in {"pass", "skip"}, one
    return document


def found(document: dict[str, Any], name: str) -> tuple[str, str]:
    (one,) = [one for one in document["checks"] if one["name"] == name]
    return one["verdict"], one["message"]


def test_a_sound_installation(config: Path, softhsm: SoftHSMToken) -> None:
    document = diagnose(config)
    for name in ("versions", "configuration", "module of hsm", "disk", "ledger"):
        assert found(document, name)[0] == "pass", found(document, name)
    verdict, words = found(document, "token hsm in its module")
    assert verdict == "pass"
    assert softhsm.serial in words
    assert found(document, "profile")[0] == "skip"
    # The anchor that `keyd init --dir` makes lies beside the ledger.
    assert found(document, "anchor")[0] == "warn"
    assert softhsm.pin not in str(document)


def test_what_is_wrong_with_the_installation(config: Path, softhsm: SoftHSMToken) -> None:
    text = config.read_text()
    config.write_text(text.replace(softhsm.uri, "pkcs11:token=elsewhere"))
    verdict, words = found(diagnose(config), "token hsm in its module")
    assert verdict == "fail"
    assert softhsm.label in words

    pinned = f'name = "hsm"\nmodule_sha256 = "{"0" * 64}"\nmodule = "/'
    config.write_text(text.replace('\nname = "hsm"\nmodule = "/', f"\n{pinned}"))
    verdict, words = found(diagnose(config), "module of hsm")
    assert verdict == "fail"
    assert "not the pinned one" in words

    config.write_text(text.replace(str(softhsm.module), str(softhsm.conf)))
    assert found(diagnose(config), "module of hsm")[0] == "fail"

    config.write_text(text.replace("[daemon]", "[daemon]\nnonsense = 1"))
    assert found(diagnose(config), "configuration")[0] == "fail"

    config.write_text(text)
    (config.parent / "policy.toml").write_text("[[grant]]\n")
    document = diagnose(config)
    assert [one["verdict"] for one in document["checks"] if one["name"] == "configuration"] == [
        "fail",
        "fail",
        "fail",
    ]


def test_a_lost_or_rolled_back_ledger(config: Path) -> None:
    ledger = config.parent / "ledger"
    anchor = config.parent / "anchor"
    anchor.rename(config.parent / "gone")
    verdict, words = found(diagnose(config), "ledger")
    assert verdict == "fail"
    assert "anchor" in words
    ledger.rename(config.parent / "lost")
    assert found(diagnose(config), "ledger")[0] == "fail"


def test_a_ledger_that_this_user_cannot_look_at(config: Path) -> None:
    """Nothing else that was found is lost with it."""
    ledger = f'ledger = "{config.parent}/ledger"'
    assert ledger in config.read_text()
    # A name that no file system takes: root may look everywhere else.
    beyond = f'ledger = "/{"x" * 300}"'
    config.write_text(config.read_text().replace(ledger, beyond))
    document = diagnose(config)
    assert found(document, "ledger")[0] == "fail"
    assert found(document, "module of hsm")[0] == "pass"


def test_no_configuration_is_no_fault(tmp_path: Path) -> None:
    document = diagnose(tmp_path / "none.toml")
    assert found(document, "configuration")[0] == "skip"
    assert document["ok"] is True


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keyd-doc-", dir="/tmp") as name:
        folder = Path(name) / "d"
        with dev(folder) as daemon:
            daemon.wait_for_file(folder / "ready")
            yield folder
            assert daemon.stop() == 0


def test_a_running_daemon(running: Path) -> None:
    document = diagnose(running / "keyd.toml", profiles=str(running / "profiles"))
    assert document["ok"] is True, [c for c in document["checks"] if c["verdict"] != "pass"]
    for name in (
        "server certificate",
        "client authority",
        "daemon",
        "token softhsm",
        "keys on softhsm",
        "repository demo",
        "audit log",
    ):
        assert found(document, name)[0] == "pass", found(document, name)
    assert "signatures recomputed" in found(document, "ledger")[1]
    over_tls = diagnose(running / "keyd.toml", "-p", "dev-tls", profiles=str(running / "profiles"))
    assert found(over_tls, "client certificate")[0] == "pass"


def test_a_daemon_that_is_not_there(running: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.toml").write_text(f'target = "unix:{tmp_path}/none.sock"\ntimeout_s = 20.0\n')
    document = diagnose(tmp_path / "none.toml", "-p", "gone", profiles=str(tmp_path))
    assert found(document, "daemon")[0] == "fail"
    assert found(diagnose(tmp_path / "none.toml", "-p", "nobody"), "profile")[0] == "fail"


def state_of_token(environment: Mapping[str, str]) -> str:
    (token,) = keyd("token", "list", "--json", environment=environment).json["tokens"]
    return str(token["state"])


def test_a_quarantined_token_is_named_with_its_way_back(running: Path) -> None:
    environment = {"KEYD_PROFILE_DIR": str(running / "profiles")}
    quarantine = ["token", "quarantine", "softhsm", "--comment", "a test"]
    assert keyd(*quarantine, environment=environment).code == 0
    try:
        document = diagnose(running / "keyd.toml", profiles=str(running / "profiles"))
        (one,) = [one for one in document["checks"] if one["name"] == "token softhsm"]
        assert one["verdict"] == "fail"
        assert one["fix"] == "find out why (keyd audit list), then keyd token release softhsm"
    finally:
        assert keyd("token", "release", "softhsm", environment=environment).code == 0
        # The release does not wait for the token to be opened again; other tests find it online.
        wait_until(lambda: state_of_token(environment) == "ONLINE", "the token online again")


@pytest.mark.parametrize(
    ("days", "verdict"),
    [
        (-1, Verdict.FAIL),
        (0, Verdict.PASS),
        (334, Verdict.PASS),
        (336, Verdict.WARN),
        (366, Verdict.FAIL),
    ],
)
def test_certificates_run_out(tmp_path: Path, days: int, verdict: Verdict) -> None:
    made = datetime(2026, 6, 1, tzinfo=UTC)
    make_certificates(tmp_path / "tls", made)
    now = made + timedelta(days=days)
    assert check_certificate("c", tmp_path / "tls" / "server.pem", now).verdict is verdict
    assert check_certificate("c", tmp_path / "tls" / "server.key", now).verdict is Verdict.FAIL
    assert check_certificate("c", tmp_path / "none.pem", now).verdict is Verdict.FAIL
