import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from flows.prefect_server import TemporaryServer, server_home, user_has_server
from ftlib.errors import StorageError


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Prefect configuration anywhere in sight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return tmp_path


def asked_in_a_fresh_process() -> str:
    """Prefect reads its profiles once a process."""
    script = "from flows.prefect_server import user_has_server; print(user_has_server())"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()


def test_without_any_setting_there_is_no_server_of_the_users(bare):
    assert not user_has_server()


def test_a_server_in_the_environment_is_the_users(bare, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert user_has_server()


@pytest.mark.parametrize(
    ("file", "text", "there"),
    [
        ("prefect/profiles.toml", 'active = "x"\n[profiles.x]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n', "True"),
        ("prefect/profiles.toml", 'active = "x"\n[profiles.x]\nPREFECT_LOGGING_LEVEL = "INFO"\n', "False"),
        ("prefect.toml", '[api]\nurl = "http://127.0.0.1:1/api"\n', "True"),
    ],
)
def test_a_server_in_a_prefect_profile_is_the_users(bare, file, text, there):
    (bare / file).parent.mkdir(exist_ok=True)
    (bare / file).write_text(text)
    assert asked_in_a_fresh_process() == there


def test_the_home_is_one_for_each_version_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert server_home().parent == tmp_path / "reglage"
    assert server_home().name.startswith("prefect-3.")


@pytest.mark.prefect
def test_it_serves_until_it_is_stopped(tmp_path):
    server = TemporaryServer(tmp_path / "server.log")
    server.wait()
    with urllib.request.urlopen(f"{server.url}/health", timeout=10) as answer:
        assert answer.read() == b"true"
    assert "PREFECT_API_URL" not in os.environ  # only `use` changes this process
    server.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{server.url}/health", timeout=10)


def test_a_server_that_cannot_start_is_one_line_that_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense://")
    server = TemporaryServer(tmp_path / "server.log")
    with pytest.raises(StorageError, match=r"server\.log"):
        server.wait()
    server.stop()
    assert "nonsense" in (tmp_path / "server.log").read_text()
