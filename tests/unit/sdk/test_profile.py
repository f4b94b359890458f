"""Profiles: where they are found, what they may say, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from keyd_client import errors, profile, uri
from keyd_client.profile import Profile


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target =", "PROFILE_UNREADABLE"),
        ('target = "unix:/s"\nport = 1', "unknown key port"),
        ('ca = "x"', "target is missing"),
        ('target = "tcp:host:1"', "neither unix:/path nor dns:host:port"),
        ('target = "unix:relative"', "absolute path"),
        pytest.param('target = "unix:/' + "s" * 107 + '"', "PROFILE_INVALID", id="long path"),
        pytest.param('target = "unix:/' + "\u00e9" * 54 + '"', "107 bytes", id="long in bytes"),
        ('target = "unix:/s"\nca = "x"', "belong to dns: targets only"),
        ('target = "unix:/s"\nserver_name = "x"', "belong to dns: targets only"),
        ('target = "dns:host:1"', "needs ca, certificate and key"),
        ('target = "dns:host:1"\nca = "x"\nkey = "y"', "needs ca, certificate and key"),
        ('target = "dns:host"', "not dns:host:port"),
        ('target = "dns:host:65536"', "not dns:host:port"),
        ('target = "unix:/s"\ntimeout_s = true', "number of seconds"),
        ('target = "unix:/s"\ntimeout_s = 0', "above 0"),
        ('target = "unix:/s"\ntimeout_s = 3601', "at most 3600"),
        ('target = "unix:/s"\ntimeout_s = nan', "above 0"),
        ('target = "unix:/s"\nrepository = "Not a name"', "no repository name"),
        ('target = "unix:/s"\nrepository = 3', "must be a text"),
        ('target = ""', "must be a text"),
        ('target = "unix:/a\\u0000b"', "must be a text that is printable"),
        ('target = "dns:host:1"\nca = "a\\nb"', "must be a text that is printable"),
        ('target = "dns:host:1"\nca = "~no-such-user-here/ca.pem"', "home of somebody unknown"),
        ('target = "dns:host:0"', "not dns:host:port"),
        ('target = "dns:host:\uff14\uff14"', "not dns:host:port"),
        pytest.param(f'target = "dns:host:{"1" * 5000}"', "not dns:host:port", id="long port"),
        pytest.param('target = "unix:/s"\ntimeout_s = 1' + "0" * 400, "at most 3600", id="10^400"),
        pytest.param("timeout_s = " + "1" * 5000, "PROFILE_UNREADABLE", id="5,000 digits"),
        pytest.param("target = " + "[" * 5000, "PROFILE_UNREADABLE", id="depth 5,000"),
    ],
)
def test_bad_profiles_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(errors.ProfileError) as raised:
        profile.load(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_profile_is_read_with_paths_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        'target = "dns:host:443"\nca = "ca.pem"\ncertificate = "/abs/c.pem"\nkey = "k/key.pem"\n'
        'server_name = "keyd"\nrepository = "demo"\ntimeout_s = 5\n'
    )
    assert profile.load(path) == Profile(
        "dns:host:443",
        tmp_path / "ca.pem",
        Path("/abs/c.pem"),
        tmp_path / "k/key.pem",
        "keyd",
        "demo",
        5.0,
    )


def test_the_longest_path_of_a_socket_is_taken() -> None:
    target = "unix:/" + "s" * 106
    assert Profile(target).target == target


def test_a_profile_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('target = "unix:/s"')
    path.chmod(0o646)
    with pytest.raises(errors.ProfileError, match="PROFILE_WRITABLE"):
        profile.load(path)


def test_the_first_directory_wins(profile_dir: Path, tmp_path: Path) -> None:
    user = tmp_path / "config" / "keyd"
    user.mkdir(parents=True)
    (user / "p.toml").write_text('target = "unix:/user"')
    assert profile.find("p") == user / "p.toml"
    (profile_dir / "p.toml").write_text('target = "unix:/own"')
    assert profile.find("p") == profile_dir / "p.toml"


def test_an_absent_profile_names_the_places_searched(profile_dir: Path) -> None:
    with pytest.raises(errors.ProfileError) as raised:
        profile.find("p")
    assert raised.value.reason == "PROFILE_NOT_FOUND"
    for directory in (profile_dir, "config/keyd", "/etc/keyd/profiles"):
        assert str(directory) in str(raised.value)


@pytest.mark.parametrize("name", ["../p", "", "a/b", ".p", "P", "a" * 65])
def test_a_name_cannot_lead_out_of_the_directories(profile_dir: Path, name: str) -> None:
    with pytest.raises(errors.ProfileError, match="PROFILE_NAME_INVALID"):
        profile.find(name)


@pytest.mark.parametrize("text", ["keyd:p/k", "keyd:a.b-c_1/root.2"])
def test_uris_survive_parsing(text: str) -> None:
    assert str(uri.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "keyd", "keyd:", "keyd:p", "keyd:p/", "keyd:/k", "keyd:p/k/x", "keyd:p/K", "hsm:p/k",
     "keyd:p/k?x=1", "keyd:p/k ", "KEYD:p/k", "keyd://p/k", "keyd:../k"],
)  # fmt: skip
def test_bad_uris_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError, match="URI_MALFORMED"):
        uri.parse(text)


def test_errors_survive_pickling_with_everything_they_know() -> None:
    finding = errors.Finding("A", "/version", "no", "A7", {"next_version": "8"})
    other = errors.Finding("B", "", "no")
    error = errors.Equivocation(
        "A", "two\nlines", findings=(finding, other), details={"next_version": "8"}, retry_after_s=2
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.Equivocation
    assert vars(copy) == vars(error)
    assert str(copy) == "A: two lines (also: B at /)"
