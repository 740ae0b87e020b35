"""Each check says what is wrong, and only what makes a run impossible counts as that."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.machine import checks, exposure
from deployments.machine.checks import disk, installation, machine, sources, store, versions, writable
from deployments.machine.exposure import is_loopback, modes, ports, settings
from deployments.machine.processes import MARK, process
from deployments.machine.state import State, StateFolder
from ftlib.recipe.file import load_recipe

RECIPE = """
name: tiny
model: {path: model}
datasets:
  home: {source: {kind: files, path: home.jsonl}, format: &format {kind: labeled_text, text: text, label: label}}
  away: {source: {kind: files, path: away.jsonl}, format: *format}
phases: [{name: tune, dataset: home, objective: {kind: classification}, tuning: {kind: full}}]
evaluations: {away: {dataset: away, role: shifted, metrics: [{kind: accuracy}]}}
select: {rule: best, by: away/accuracy}
publish: {name: tiny}
compute: {workers: 0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose rows are there and whose model is not: no check loads one."""
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("home", "away"):
        (folder / f"{name}.jsonl").write_text('{"text": "a", "label": "b"}\n')
    (folder / "tiny.yaml").write_text(
        RECIPE.replace("path: home", f"path: {folder}/home").replace("path: away", f"path: {folder}/away")
    )
    return folder / "tiny.yaml"


def test_versions_are_compared_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock = tmp_path / "lock"
    monkeypatch.setattr(checks, "_lock", lambda: lock)
    monkeypatch.setattr(checks, "installed_version", {"a": "1.0+cpu", "b": "2.1"}.get)
    lock.write_text("# made by pip-compile\na==1.0  # via b\nb==2.1 ; python_version >= '3.11'\nnot-here==3\n")
    assert [one.ok for one in versions()] == [True, True]
    lock.write_text("a==1.0\nb==2.2\n")
    differs = list(versions())[-1]
    assert (differs.ok, differs.needed) == (False, False)
    assert "b 2.1, not 2.2" in differs.found
    assert "a 1.0" not in differs.found


@pytest.mark.parametrize(("free", "ok", "needed"), [(6e9, True, True), (1e9, False, False), (1e8, False, True)])
def test_little_disk_is_a_warning_and_none_is_the_end(monkeypatch, tmp_path, free: float, ok: bool, needed: bool):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free)))
    (one,) = disk({"work": tmp_path / "new" / "work", "registry": tmp_path})  # one disk, said once
    assert (one.ok, one.needed) == (ok, needed)
    assert str(tmp_path) in one.found


def test_a_registry_is_tried_by_a_race_of_writers_and_left_as_it_was(tmp_path: Path, monkeypatch):
    (tmp_path / "registry").mkdir()
    assert "of 8 writers at once one won" in store("registry", str(tmp_path / "registry")).found
    assert [path for path in (tmp_path / "registry").rglob("*") if path.is_file()] == []

    def torn(*_: object) -> None:
        raise checks.ReglageError("s3://b let 8 of 8 writers create the same object; use another store")

    monkeypatch.setattr("ftlib.registry.probe", torn)
    bad = store("registry", str(tmp_path / "registry"))
    assert (bad.ok, bad.needed, bad.remedy) == (False, True, "use another store")


def test_where_a_recipe_publishes_is_tried_at_its_own_server(recipe: Path, monkeypatch):
    tried = list[str | None]()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(checks, "open_store", lambda place: tried.append(place.endpoint_url))
    monkeypatch.setattr("ftlib.registry.probe", lambda *_: None)
    to = "publish.to={kind: s3, bucket: models, endpoint_url: 'http://127.0.0.1:2'}"
    list(sources(load_recipe(recipe, [to])))
    list(sources(load_recipe(recipe, ["publish.to={kind: s3, bucket: models}"])))
    assert tried == ["http://127.0.0.1:2", "http://127.0.0.1:1"]


def test_what_a_recipe_reads_is_listed(recipe: Path):
    whole = load_recipe(recipe)
    assert [(one.what, one.ok, one.found) for one in sources(whole)] == [
        ("rows home", True, "1 file can be listed"),
        ("rows away", True, "1 file can be listed"),
    ]
    gone = load_recipe(recipe, [f"datasets.away.source.path={recipe.parent}/gone.jsonl"])
    home, away = sources(gone)
    assert (home.ok, away.ok, away.needed) == (True, False, True)
    assert "gone.jsonl" in away.found


def test_gpus_that_a_recipe_asks_for_and_are_not_there(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    wants = load_recipe(recipe, ["compute={workers: 2, use_gpu: true, threads: 1}"])
    gpu = next(one for one in machine(wants) if one.what == "gpu")
    assert (gpu.ok, gpu.needed) == (False, True)
    assert "2 GPUs" in gpu.found
    assert next(one for one in machine(None) if one.what == "gpu").ok


def test_a_folder_under_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert writable("work", tmp_path).ok
    bad = writable("work", tmp_path / "file" / "work")
    assert (bad.ok, bad.needed) == (False, True)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, None),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api", "PREFECT_SERVER_API_HOST": "127.0.0.1"}, None),
        ({"PREFECT_API_URL": "http://localhost:4200/api"}, None),
        ({"PREFECT_API_URL": "https://prefect.example/api"}, None),
        ({"PREFECT_API_URL": "http://u:secret@prefect.example/api"}, "http://prefect.example/api: .*unencrypted"),
        ({"PREFECT_SERVER_API_HOST": "0.0.0.0"}, "without PREFECT_SERVER_API_AUTH_STRING"),
        ({"PREFECT_SERVER_API_HOST": "0.0.0.0", "PREFECT_SERVER_API_AUTH_STRING": "u:p"}, None),
        ({"PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "True"}, "pose as the server"),
    ],
)
def test_settings_that_are_not_safe_are_named_and_never_said(environment: dict[str, str], said: str | None):
    found = list(settings(environment))
    assert len(found) == (said is not None)
    for one in found:
        assert re.search(said or "", one.found)
        assert "secret" not in one.found
        assert not one.needed


def test_folders_that_everyone_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    work.chmod(0o755)
    before = os.umask(0o077)
    try:
        assert [one.remedy for one in modes(work)] == [f"chmod o-rwx {work}"]
        work.chmod(0o750)
        assert list(modes(work)) == []
        os.umask(0o000)
        assert ["umask" in one.found for one in modes(work)] == [True]
        assert os.umask(before) == 0  # it looks, and leaves it
    finally:
        os.umask(before)


@pytest.fixture
def open_door() -> Iterator[tuple[int, int]]:
    """A process of an installation that listens for everyone and for this machine; its number and the first port."""
    script = (
        "import socket, time; s = socket.create_server(('0.0.0.0', 0)); t = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", script], env={**os.environ, MARK: "/x"}, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    yield child.pid, int(child.stdout.readline())
    child.kill()
    child.wait()


def test_a_port_that_others_reach_is_named_and_one_of_the_loopback_is_not(open_door: tuple[int, int], monkeypatch):
    pid, port = open_door
    found = exposure.ours()
    monkeypatch.setattr(exposure, "ours", lambda: {pid: found[pid]})
    (one,) = ports()
    assert f"0.0.0.0:{port} (process {pid}" in one.found
    assert "127.0.0.1" not in one.found


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")),
    ],
)
def test_loopback(host: str, loopback: bool):
    assert is_loopback(host) == loopback


def test_an_installation_that_was_killed_or_lacks_its_worker_is_told(tmp_path: Path):
    folder = StateFolder(tmp_path)
    assert [one.ok for one in installation(tmp_path)] == [True]
    folder.make()
    me = process(os.getpid())
    assert me is not None
    up = State(phase="up", supervisor=me, port=4200).with_service("server", process=me).with_service("worker")
    folder.write(up)
    (one,) = installation(tmp_path)
    assert "worker does not run" in one.found
    folder.write(up.with_service("worker", process=me))
    assert [one.ok for one in installation(tmp_path)] == [True]
    folder.write(up.model_copy(update={"supervisor": me.model_copy(update={"ticks": 1})}))
    (one,) = installation(tmp_path)
    assert "was killed" in one.found
    assert not one.needed


def test_a_cluster_that_is_not_there_is_one_line(recipe: Path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    there = load_recipe(recipe, [f"compute={{workers: 1, threads: 1, ray_address: 'http://127.0.0.1:{port}'}}"])
    (one,) = checks.cluster(there)
    assert (one.ok, one.needed) == (False, True)
    assert "where no Ray cluster answers" in one.found
