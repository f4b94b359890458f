"""Policy files: what they mean, and every way in which they are refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from keyd.config.policy_file import load_policy, parse_policy
from keyd.config.problems import ConfigurationError
from keyd.domain.policy import Action, Caller, decide

GOOD = """\
# who may do what
[[grant]]
name = "ci"
principals = ["uri:spiffe://example.org/ci", "dns:ci.example.org"]
methods = [
    "SigningService.SignMetadata",  # [[grant]]
    "SigningService.CheckMetadata",
]
repositories = ["demo"]
roles = ["timestamp", "snapshot"]
any_delegated_role = true
keys = ["online-1"]

  [[ grant ]] # operators
name = "operators"
principals = ["unix:admin"]
methods = ["KeyService.CreateKey", "KeyService.ListKeys"]
any_key = true
tokens = ["hsm"]
"""


def refused(text: str) -> list[tuple[str, str, str]]:
    """(reason, pointer, message) of everything that is wrong with a policy."""
    with pytest.raises(ConfigurationError) as caught:
        parse_policy(text.encode(), Path("policy.toml"))
    assert caught.value.reason == "CONFIG_INVALID"
    return [(found.reason, found.pointer, found.message) for found in caught.value.findings]


def grant(**members: str) -> str:
    base = {
        "name": '"g"',
        "principals": '["unix:admin"]',
        "methods": '["KeyService.GetKey"]',
        "keys": '["k"]',
    }
    lines = [f"{key} = {value}" for key, value in (base | members).items() if value]
    return "[[grant]]\n" + "\n".join(lines) + "\n"


def test_a_good_file_means_what_it_says() -> None:
    policy = parse_policy(GOOD.encode(), Path("policy.toml"))
    assert policy.revision == hashlib.sha256(GOOD.encode()).hexdigest()
    assert [(found.name, found.line) for found in policy.grants] == [("ci", 2), ("operators", 14)]
    ci = Caller("dns:ci.example.org", False)
    sign = Action("SigningService.SignMetadata", "demo", "bins-1", "online-1")
    assert decide(policy, ci, sign).allowed
    assert not decide(policy, ci, Action(sign.method, "demo", "targets", "online-1")).allowed
    admin = Caller("unix:admin", True)
    assert decide(policy, admin, Action("KeyService.CreateKey", key="x", token="hsm")).allowed
    assert not decide(policy, admin, Action("KeyService.CreateKey", key="x", token="b")).allowed


def test_line_numbers_survive_other_line_ends() -> None:
    text = "# a\u2028b\x85c\x0cd\n" + grant()
    text = text.replace("\x0c", "")
    assert parse_policy(text.encode(), Path("p")).grants[0].line == 2
    assert parse_policy(grant().replace("\n", "\r\n").encode(), Path("p")).grants[0].line == 1


def test_an_empty_file_allows_nothing() -> None:
    assert parse_policy(b"", Path("policy.toml")).grants == ()


@pytest.mark.parametrize(
    ("text", "reason", "pointer", "words"),
    [
        (
            grant(methods='["KeyService.GetKeys"]'),
            "METHOD_UNKNOWN",
            "/grant/0/methods/0",
            "GetKeys",
        ),
        (grant(methods='["GetKey"]'), "METHOD_UNKNOWN", "/grant/0/methods/0", "line 1, grant 'g'"),
        (grant(methods='["*"]'), "METHOD_UNKNOWN", "/grant/0/methods/0", "unknown method"),
        (grant(methods="[]"), "SETTING_INVALID", "/grant/0/methods", "methods"),
        (grant(methods='"KeyService.GetKey"'), "SETTING_INVALID", "/grant/0/methods", "methods"),
        (grant(methods=""), "SETTING_INVALID", "/grant/0/methods", "required, but not set"),
        (grant(principals="[]"), "SETTING_INVALID", "/grant/0/principals", "principals"),
        (grant(principals='["admin"]'), "PRINCIPAL_INVALID", "/grant/0/principals/0", "unix:NAME"),
        (grant(principals='["unix:"]'), "PRINCIPAL_INVALID", "/grant/0/principals/0", "unix:NAME"),
        (grant(principals='["unix:a b"]'), "PRINCIPAL_INVALID", "/grant/0/principals/0", "a b"),
        (grant(principals='["mtls:a"]'), "PRINCIPAL_INVALID", "/grant/0/principals/0", "mtls:a"),
        (grant(principals='["unix:a","unix:a"]'), "NAME_TWICE", "/grant/0/principals", "twice"),
        (grant(keys='["k*"]'), "NAME_INVALID", "/grant/0/keys/0", "there are no wildcards"),
        (grant(keys='["K"]'), "NAME_INVALID", "/grant/0/keys/0", "'K' is no key name"),
        (grant(keys='[""]'), "NAME_INVALID", "/grant/0/keys/0", "'' is no key name"),
        (grant(keys="[1]"), "SETTING_INVALID", "/grant/0/keys/0", "string"),
        (grant(keys=""), "SCOPE_MISSING", "/grant/0/keys", "set keys or any_key"),
        (grant(keys="", any_key="false"), "SCOPE_MISSING", "/grant/0/keys", "set keys or any_key"),
        (grant(any_key="true"), "SCOPE_AMBIGUOUS", "/grant/0/keys", "any_key covers all"),
        (grant(any_key='"true"', keys=""), "SETTING_INVALID", "/grant/0/any_key", "boolean"),
        (grant(tokens='["t"]'), "SCOPE_UNUSED", "/grant/0/tokens", "touches a token"),
        (grant(role='["root"]'), "SETTING_INVALID", "/grant/0/role", "unknown setting"),
        (grant(name='""'), "SETTING_INVALID", "/grant/0/name", "name"),
        (grant() + grant(), "NAME_TWICE", "/grant", "two grants are named 'g'"),
        ("allow = true\n" + grant(), "SETTING_INVALID", "/allow", "unknown table"),
        ("[grant]\nname = 'g'", "GRANT_SHAPE", "/grant", "[[grant]]"),
        ("grant = 1", "GRANT_SHAPE", "/grant", "[[grant]]"),
        ('grant = [{name = "g"}]', "GRANT_SHAPE", "/grant", "[[grant]]"),
        (grant(name='"""g"""'), "GRANT_SHAPE", "/grant", "[[grant]]"),
        ("[[grant]]\nname = 'g'\nname = 'h'", "TOML_INVALID", "", "overwrite"),
        ("[[grant]]\nname = g", "TOML_INVALID", "", "line 2"),
        ("[[grant]\n", "TOML_INVALID", "", "not valid TOML"),
        pytest.param(f"a = {'9' * 5000}", "TOML_INVALID", "", "not valid TOML", id="5,000 digits"),
        pytest.param(f"a = {'[' * 5000}", "TOML_INVALID", "", "not valid TOML", id="depth 5,000"),
        (
            grant(methods='["SigningService.SignMetadata"]', any_role="true", roles='["root"]'),
            "SCOPE_AMBIGUOUS",
            "/grant/0/roles",
            "any_role covers all",
        ),
        (
            grant(methods='["SigningService.CheckMetadata"]', roles='["bins-*"]'),
            "NAME_INVALID",
            "/grant/0/roles/0",
            "there are no wildcards",
        ),
    ],
)
def test_refused(text: str, reason: str, pointer: str, words: str) -> None:
    found = refused(text)
    assert any((reason, pointer) == (r, p) and words in message for r, p, message in found), found


def test_all_problems_are_told_at_once() -> None:
    text = grant(methods='["A.B", "C.D"]', principals='["x"]') + "\n" + grant(surplus="1", keys="1")
    assert {pointer for _, pointer, _ in refused(text)} == {
        "/grant/0/methods/0",
        "/grant/0/methods/1",
        "/grant/0/principals/0",
        "/grant/0/keys",
        "/grant/1/surplus",
        "/grant/1/keys",
    }


def test_a_key_may_be_named_for_checking_alone() -> None:
    text = grant(methods='["SigningService.CheckMetadata"]', repositories='["r"]', roles='["root"]')
    assert parse_policy(text.encode(), Path("p")).grants[0].keys == {"k"}


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        parse_policy(b"# \xff\n", Path("p"))


class TestFiles:
    def test_mode_that_lets_others_write_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.toml"
        path.write_text(grant())
        path.chmod(0o664)
        with pytest.raises(ConfigurationError, match="mode 0664"):
            load_policy(path)
        path.chmod(0o644)
        assert load_policy(path).grants

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_file_of_another_user_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.toml"
        path.write_text(grant())
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
        with pytest.raises(ConfigurationError, match="belongs to uid 65534"):
            load_policy(path)

    def test_a_fifo_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo", 0o600)
        with pytest.raises(ConfigurationError, match="no regular file"):
            load_policy(tmp_path / "fifo")

    def test_a_missing_file_and_a_directory_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
            load_policy(tmp_path / "none.toml")
        with pytest.raises(ConfigurationError, match="no regular file"):
            load_policy(tmp_path)

    def test_a_huge_file_is_refused_unparsed(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.toml"
        path.write_bytes(b"#" * (1024 * 1024 + 1))
        path.chmod(0o600)
        with pytest.raises(ConfigurationError, match="larger than"):
            load_policy(path)
