"""What `keyd doctor` says of this host, where no installation is needed to see it."""

from __future__ import annotations

from pathlib import Path

from keyd.cli.diagnosis.finding import Verdict
from keyd.cli.diagnosis.installation import look_at_installation


def test_a_configuration_that_this_user_cannot_look_at() -> None:
    """Said of a closed folder; root, who may run this, is shut out by no mode, but by a name."""
    (check,) = look_at_installation(Path("/" + "x" * 300), {})
    assert (check.name, check.verdict) == ("configuration", Verdict.FAIL)
    assert "cannot look at" in check.message
    assert check.fix


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none.toml", tmp_path / "file" / "keyd.toml"):
        (check,) = look_at_installation(path, {})
        assert check.verdict is Verdict.SKIP
