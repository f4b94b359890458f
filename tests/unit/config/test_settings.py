"""The configuration file: defaults, overrides, and every way in which it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from keyd.config.checks import unusable_files
from keyd.config.load import load_settings, variables
from keyd.config.problems import ConfigurationError
from keyd.config.settings import Settings, split_address

Read = Callable[..., Settings]

GOOD = """\
[daemon]
ledger = "/var/lib/keyd/ledger"
anchor = "/var/lib/keyd-anchor/anchor"
start_wait_s = 5

[policy]
file = "/etc/keyd/policy.toml"

[[listen.unix]]
path = "/run/keyd/admin.sock"
principal = "admin"
administrator = true

[listen.tcp]
address = "[::1]:8443"
certificate = "/etc/keyd/tls/server.pem"
key = "/etc/keyd/tls/server.key"
client_ca = "/etc/keyd/tls/clients.pem"

[metrics]
address = "127.0.0.1:9464"

[[token]]
name = "hsm"
module = "/usr/lib/softhsm/libsofthsm2.so"
uri = "pkcs11:token=keyd;serial=0123"
pin_source = "credential:token-pin"
environment = { SOFTHSM2_CONF = "/etc/keyd/softhsm2.conf" }

[audit]
log_token = "hsm"
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a configuration given as text."""

    def read_text(text: str, environment: dict[str, str] | None = None, **flags: str) -> Settings:
        path = tmp_path / "keyd.toml"
        path.write_text(text)
        path.chmod(0o600)
        dotted = {name.replace("__", "."): value for name, value in flags.items()}
        return load_settings(path, environment or {}, dotted)

    return read_text


def refused(
    read: Read, text: str, environment: dict[str, str] | None = None, **flags: str
) -> list[tuple[str, str, str]]:
    """(reason, pointer, message) of everything that is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        read(text, environment, **flags)
    return [(found.reason, found.pointer, found.message) for found in caught.value.findings]


def test_a_good_file(read: Read) -> None:
    settings = read(GOOD)
    assert settings.daemon.ledger == Path("/var/lib/keyd/ledger")
    assert settings.daemon.start_wait_s == 5.0
    assert not settings.daemon.development
    assert settings.listen.unix[0].administrator
    assert settings.listen.tcp is not None
    assert settings.listen.tcp.address == "[::1]:8443"
    assert settings.token[0].environment == {"SOFTHSM2_CONF": "/etc/keyd/softhsm2.conf"}
    assert settings.log.level == "info"


def test_variables_override_the_file_and_flags_override_both(read: Read) -> None:
    environment = {
        "KEYD_DAEMON_LEDGER": "/srv/a",
        "KEYD_DAEMON_ANCHOR": "/srv/b",
        "KEYD_DAEMON_DEVELOPMENT": "true",
        "KEYD_AUDIT_CHECKPOINT_INTERVAL_S": "7.5",
        "KEYD_LIMITS_WORK_THREADS": "8",
        "KEYD_LISTEN_TCP_ADDRESS": "127.0.0.1:1",
        "KEYD_PROFILE_DIR": "/ignored",
        "KEYD_PROFILE": "ignored",
        "HOME": "/root",
    }
    settings = read(GOOD, environment, daemon__anchor="/srv/c", metrics__address="")
    assert settings.daemon.ledger == Path("/srv/a")
    assert settings.daemon.anchor == Path("/srv/c")
    assert settings.daemon.development is True
    assert settings.audit.checkpoint_interval_s == 7.5
    assert settings.limits.work_threads == 8
    assert settings.listen.tcp is not None
    assert settings.listen.tcp.address == "127.0.0.1:1"
    assert settings.metrics.address == ""


def test_a_section_that_the_file_lacks_can_be_given_by_variables(read: Read) -> None:
    text = GOOD.replace('[policy]\nfile = "/etc/keyd/policy.toml"\n', "")
    assert read(text, {"KEYD_POLICY_FILE": "/p"}).policy.file == Path("/p")


def test_no_two_settings_share_a_variable() -> None:
    names = variables()
    assert len(set(names.values())) == len(names)
    assert names["KEYD_LISTEN_TCP_CLIENT_CA"] == "listen.tcp.client_ca"
    assert "KEYD_TOKEN" not in names


def test_nothing_secret_can_be_set_by_a_variable() -> None:
    assert not [name for name in variables() if "PIN" in name]


@pytest.mark.parametrize(
    ("old", "new", "pointer", "words"),
    [
        ("start_wait_s = 5", 'start_wait_s = "5"', "/daemon/start_wait_s", "number"),
        ("start_wait_s = 5", "start_wait_s = true", "/daemon/start_wait_s", "number"),
        ("start_wait_s = 5", "start_wait_s = 601", "/daemon/start_wait_s", "600"),
        ("start_wait_s = 5", "start_wait = 5", "/daemon/start_wait", "unknown setting"),
        ("[metrics]", "[metric-s]", "/metric-s", "unknown setting"),
        ('ledger = "/var', 'ledger = "var', "/daemon/ledger", "absolute path"),
        ('ledger = "/var', 'ledger = "/var/../var', "/daemon/ledger", "absolute path"),
        ("administrator = true", 'administrator = "yes"', "/listen/unix/0/administrator", "bool"),
        ("administrator = true", "mode = 438", "/listen/unix/0/mode", "unknown setting"),
        ('principal = "admin"', 'principal = "Admin"', "/listen/unix/0/principal", "pattern"),
        ('"/run/keyd/admin.sock"', f'"/{"x" * 107}"', "/listen/unix/0/path", "108 bytes long"),
        ('"/run/keyd/admin.sock"', f'"/{"é" * 54}"', "/listen/unix/0/path", "109 bytes long"),
        ("[::1]:8443", "::1:8443", "/listen/tcp/address", "brackets"),
        ("[::1]:8443", "localhost", "/listen/tcp/address", "HOST:PORT"),
        ("[::1]:8443", "localhost:65536", "/listen/tcp/address", "HOST:PORT"),
        ("127.0.0.1:9464", "0.0.0.0:9464", "/metrics/address", "no authentication"),
        ("127.0.0.1:9464", "localhost:9464", "/metrics/address", "no authentication"),
        ("127.0.0.1:9464", "[::]:9464", "/metrics/address", "no authentication"),
        ("127.0.0.1:9464", "10.0.0.1:9464", "/metrics/address", "no authentication"),
        ("pkcs11:token=keyd;", "pkcs11:slot-id=0;", "/token/0/uri", "renumber slots"),
        ("serial=0123", "serial=1?pin-value=1234", "/token/0/uri", "put the PIN into a file"),
        ("pkcs11:token=keyd;serial=0123", "pkcs11:model=x", "/token/0/uri", "serial="),
        ("pkcs11:token", "token", "/token/0/uri", "pkcs11:"),
        ("credential:token-pin", "123456", "/token/0/pin_source", "prompt"),
        ("credential:token-pin", "file:pin", "/token/0/pin_source", "prompt"),
        ("credential:token-pin", "credential:../x", "/token/0/pin_source", "prompt"),
        ('name = "hsm"', 'name = "hsm"\nsessions = 65', "/token/0/sessions", "less"),
        ('name = "hsm"', 'name = "hsm"\npin = "1234"', "/token/0/pin", "unknown setting"),
        ('name = "hsm"', 'name = "hsm"\nmodule_sha256 = "ab"', "/token/0/module_sha256", "pattern"),
        ('name = "hsm"', 'name = "hsm"\nmodule_parameters = "a\\nb"', "/token/0/module", "pattern"),
        ('name = "hsm"', 'name = "hsm"\nwaive_local = "true"', "/token/0/waive_local", "bool"),
        ('log_token = "hsm"', 'log_token = "hs"', "/audit/log_token", "names no [[token]]"),
        ("/var/lib/keyd-anchor/", "/var/lib/keyd/ledger/", "/daemon/anchor", "outside"),
        ('file = "/etc/keyd/policy.toml"', "", "/policy/file", "required, but not set"),
        ("[audit]", "[development]\nopaque_may_sign_tuf = true\n[audit]", "/development", "needs"),
    ],
)
def test_refused(read: Read, old: str, new: str, pointer: str, words: str) -> None:
    assert old in GOOD
    found = refused(read, GOOD.replace(old, new, 1))
    assert any(p.startswith(pointer) and words in message for _, p, message in found), found


def test_nothing_to_listen_on_is_refused(read: Read) -> None:
    minimal = '[daemon]\nledger = "/l"\nanchor = "/a"\n[policy]\nfile = "/p"\n'
    assert [reason for reason, _, _ in refused(read, minimal)] == ["NO_LISTENER"]


def test_everything_twice_is_refused(read: Read) -> None:
    socket = '[[listen.unix]]\npath = "/run/keyd/admin.sock"\nprincipal = "admin"\n'
    token = '[[token]]\nname = "hsm"\nmodule = "/m.so"\nuri = "pkcs11:token=keyd;serial=0123"\n'
    messages = " ".join(message for _, _, message in refused(read, GOOD + socket + token))
    for words in (
        "have the path '/run/keyd/admin.sock'",
        "have the principal 'admin'",
        "have the name 'hsm'",
        "have the uri 'pkcs11:token=keyd;serial=0123'",
    ):
        assert words in messages


def test_bad_overrides_are_refused_beside_all_other_problems(read: Read) -> None:
    environment = {
        "KEYD_DAEMON_LEDGR": "/x",
        "KEYD_DAEMON_DEVELOPMENT": "1",
        "KEYD_LIMITS_WORK_THREADS": "many",
    }
    found = refused(read, GOOD.replace("[metrics]", "[metric-s]"), environment, token__name="x")
    messages = " ".join(message for _, _, message in found)
    assert "KEYD_DAEMON_LEDGR overrides no setting" in messages
    assert "--set token.name overrides no setting" in messages
    assert "metric-s: unknown setting" in messages
    assert {pointer for _, pointer, _ in found} >= {
        "/daemon/development",
        "/limits/work_threads",
    }


def test_a_section_that_is_no_table_is_refused(read: Read) -> None:
    text = "audit = 1\n" + GOOD.replace('[audit]\nlog_token = "hsm"\n', "")
    found = refused(read, text, {"KEYD_AUDIT_LOG_TOKEN": "hsm"})
    assert ("SETTING_INVALID", "/audit", "must be a table") in found


@pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "host.example.org:443"])
def test_addresses(address: str) -> None:
    host, port = split_address(address)
    assert host in {"127.0.0.1", "::1", "host.example.org"}
    assert port in {80, 443}


class TestFiles:
    """`keyd config check` looks at the files that the configuration names."""

    def settings(self, folder: Path, read: Read) -> Settings:
        text = GOOD.replace("/etc/keyd", str(folder)).replace(
            "/usr/lib/softhsm/libsofthsm2.so", str(folder / "module.so")
        )
        return read(text.replace("credential:token-pin", f"file:{folder}/pin"))

    def test_all_missing_files_are_told_at_once(self, tmp_path: Path, read: Read) -> None:
        found = unusable_files(self.settings(tmp_path, read))
        assert {one.pointer for one in found} == {
            "/policy/file",
            "/listen/tcp/certificate",
            "/listen/tcp/key",
            "/listen/tcp/client_ca",
            "/token/0/module",
            "/token/0/pin_source",
        }

    def test_modes_are_checked(self, tmp_path: Path, read: Read) -> None:
        settings = self.settings(tmp_path, read)
        (tmp_path / "tls").mkdir()
        names = ("tls/server.pem", "tls/server.key", "tls/clients.pem", "module.so", "pin")
        for name in (*names, "policy.toml"):
            (tmp_path / name).write_bytes(b"")
            (tmp_path / name).chmod(0o600)
        assert unusable_files(settings) == []
        (tmp_path / "module.so").chmod(0o602)
        (tmp_path / "pin").chmod(0o604)
        (tmp_path / "tls/server.key").unlink()
        (tmp_path / "tls/server.key").mkdir()
        words = " ".join(found.message for found in unusable_files(settings))
        assert "module.so has mode 0602, so others can write it" in words
        assert "pin is open to others; type: chmod 600" in words
        assert "server.key is no regular file" in words

    def test_problems_of_the_policy_are_told_with_their_lines(
        self, tmp_path: Path, read: Read
    ) -> None:
        settings = self.settings(tmp_path, read)
        policy = tmp_path / "policy.toml"
        policy.write_text('[[grant]]\nname = "x"\nprincipals = ["unix:a"]\nmethods = ["A.B"]\n')
        policy.chmod(0o600)
        found = [one for one in unusable_files(settings) if one.pointer.startswith("/policy")]
        assert [one.pointer for one in found] == ["/policy/file/grant/0/methods/0"]
        assert "line 1, grant 'x': unknown method 'A.B'" in found[0].message
