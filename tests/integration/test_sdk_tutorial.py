"""The tutorial works as it is printed: its files are written and its commands typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from demo.web import over_http
from tests.running import Daemon, clean_environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "first-repository.md"
_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What this test does in its own way: set up, and run in the background.
_NOT_TYPED = ("make ", ". .venv", "keyd dev", "export ", "mkdir ", "cd ", "python3 -m http.server")


def test_the_tutorial_works_as_it_is_printed(socket_dir: Path) -> None:
    place = socket_dir / "greetings"
    place.mkdir()
    (place / "repository").mkdir()
    said: dict[str, str] = {}
    with (
        Daemon(["dev", "--dir", str(socket_dir / "dev")], socket_dir / "log") as daemon,
        over_http(place / "repository") as url,
    ):
        daemon.wait_for_file(socket_dir / "dev" / "ready")
        programs = Path(sys.executable).parent
        environment = clean_environment(
            {"KEYD_PROFILE_DIR": str(socket_dir / "dev" / "profiles"), "HOME": str(socket_dir)}
        )
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        for kind, text in _BLOCK.findall(PAGE.read_text("utf-8")):
            if kind == "python":
                name = text.partition("\n")[0].removeprefix("# ")
                (place / name).write_text(text.replace("http://127.0.0.1:8000/", url))
                continue
            for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
                if command.startswith(_NOT_TYPED):
                    continue
                done = subprocess.run(
                    ["/bin/bash", "-ec", command],
                    cwd=place,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 0, (command, done.stdout, done.stderr)
                said[command] = said.get(command, "") + done.stdout
    assert said["python3 fetch.py"] == "Hello, world!\nGood evening!\n"
    assert said["python3 cheat.py"].startswith("VERSION_ALREADY_SIGNED_DIFFERENTLY: ")
    assert "2.targets.json" in said["ls repository/metadata"]
    assert said["keyd key list"].count("greetings-") == 6
    assert "sound" in said["keyd audit verify"]
