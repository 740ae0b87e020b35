import os
from types import SimpleNamespace

import pytest

from deployments.machine.processes import process
from deployments.machine.state import State, StateFolder
from ftlib.errors import StorageError


def test_the_state_is_private_even_in_a_folder_that_was_there(tmp_path):
    (tmp_path / ".reglage").mkdir(mode=0o755)
    folder = StateFolder(tmp_path)
    folder.make()
    folder.write(State(database="postgresql+asyncpg://u:secret@h/n"))
    ignored = folder.root / ".gitignore"
    assert ignored.read_text() == "*\n"  # where the home is a repository, nothing of it is committed
    assert [path.stat().st_mode & 0o077 for path in folder.root.rglob("*") if path != ignored] == [0] * 4
    assert folder.root.stat().st_mode & 0o777 == 0o700
    assert "secret" not in folder.read().said_database()


def test_a_state_is_read_back_and_says_who_serves(tmp_path):
    folder = StateFolder(tmp_path)
    assert folder.read() == State()
    folder.make()
    state = State(phase="up", supervisor=process(os.getpid()), port=4200).with_service("worker", restarts=2, note="x")
    folder.write(state)
    assert folder.read() == state
    assert folder.read().serves()
    dead = state.model_copy(update={"supervisor": state.supervisor.model_copy(update={"ticks": 1})})
    assert not dead.serves()


def test_a_home_has_one_name_whatever_leads_there(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    assert StateFolder(tmp_path / "link" / ".." / "link").root == StateFolder(tmp_path / "home").root


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', '{"port": "x"}'])
def test_a_state_of_another_version_or_torn_is_one_line(tmp_path, text: str):
    folder = StateFolder(tmp_path)
    folder.make()
    (folder.root / "state.json").write_text(text)
    with pytest.raises(StorageError, match=r"state\.json is no state of this version .*delete the file"):
        folder.read()


def test_where_no_folder_can_be_made_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --home"):
        StateFolder(tmp_path / "file").make()


def test_a_full_disk_is_said_before_anything_starts(tmp_path, monkeypatch: pytest.MonkeyPatch):
    folder = StateFolder(tmp_path)
    folder.make()
    folder.check_space()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=256_000))
    with pytest.raises(StorageError, match=r"256 kB are free, at least 50\.0 MB are needed; .*choose another --home"):
        folder.check_space()
