import shlex
import shutil
import socket
from pathlib import Path

import pytest

from deployments.machine.state import StateFolder
from deployments.machine.systemd import complaints, notify, unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_has_nothing_against_it_and_would_have(tmp_path):
    home = tmp_path / 'a home of 100% "mine" for $5'
    home.mkdir()
    file = tmp_path / "reglage.service"
    file.write_text(unit(StateFolder(home), ["a recipe.yaml", "--port", "4200"], {"X": "a b%c"}))
    assert complaints(file) == ""
    file.write_text(file.read_text().replace("KillMode=mixed", "KillMode=all of them"))
    assert "kill mode" in (complaints(file) or "")


def test_its_command_is_the_one_that_was_given(tmp_path):
    text = unit(StateFolder(tmp_path), ["recipes/a b.yaml"], {"REGLAGE_DATABASE": "postgresql://u:p%40@h/n"})
    command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(command.removeprefix("ExecStart="))
    assert words[1:] == ["-P", "-m", "ftlib", "up", "recipes/a b.yaml", "--home", str(tmp_path)]
    assert 'Environment="REGLAGE_DATABASE=postgresql://u:p%%40@h/n"' in text


def test_systemd_hears_that_it_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notify("READY=1")  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "s"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
        notify("READY=1")
        assert heard.recv(100) == b"READY=1"
