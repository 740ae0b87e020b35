"""A project's own packages `flows` and `tasks` in the working folder, or on PYTHONPATH."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import pytest

import ftlib
from ftlib.__main__ import shadowing
from ftlib.testing import tiny_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout in an environment of its own, which sees what ours has but not the checkout."""
    root = tmp_path_factory.mktemp("wheel")
    for name in ("ftlib", "flows", "tasks"):
        shutil.copytree(ROOT / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / "source" / name)
    build = [sys.executable, "-c", "from setuptools.build_meta import build_wheel; build_wheel('..')"]
    subprocess.run(build, check=True, capture_output=True, cwd=root / "source")
    (wheel,) = root.glob("*.whl")
    venv.create(root / "venv", symlinks=True)
    (packages,) = (root / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file: the .pth files there are not read, so an editable install of the checkout is not seen.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    python = root / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--ignore-installed", wheel], check=True, capture_output=True)
    return root / "venv" / "bin"


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**kept, **variables})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("flows", "tasks", "ftlib"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else’s')\n")
    return tmp_path


def test_ours_are_found_to_be_ours() -> None:
    assert (shadowing("flows"), shadowing("tasks")) == (None, None)
    assert shadowing("json") == str(Path(os.__file__).parent / "json")


def test_a_wheel_in_a_folder_with_packages_of_these_names(installed: Path, project: Path) -> None:
    version = run(installed / "reglage", "--version", cwd=project)
    assert (version.returncode, version.stdout.split()[-1], version.stderr) == (0, ftlib.__version__, "")
    # What the temporary server is started as, and a worker with the deployments' job variables.
    for options, variables in ((["-P"], {}), ([], {"PYTHONSAFEPATH": "1"})):
        where = "from importlib.util import find_spec as f; print(*(f(name).origin for name in NAMES))"
        where = where.replace("NAMES", "('ftlib.__main__', 'tasks.train', 'flows.finetune', 'flows.prefect_server')")
        done = run(installed / "python", *options, "-c", where, cwd=project, **variables)
        assert done.returncode == 0, done.stderr
        assert all(path.startswith(str(installed.parent)) for path in done.stdout.split())
    theirs = project / "theirs"
    shutil.copytree(project / "flows", theirs / "flows")
    shadowed = run(installed / "reglage", "--version", cwd=project, PYTHONPATH=str(theirs))
    assert (shadowed.returncode, shadowed.stdout) == (2, "")
    (line,) = shadowed.stderr.splitlines()
    assert line.startswith(f"reglage: Python finds another package 'flows', {theirs / 'flows'}, before")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.prefect
def test_a_run_from_a_wheel_there(installed: Path, project: Path) -> None:
    recipe = tiny_recipe(project)
    recipe.write_text(recipe.read_text().replace("workers: 0", "workers: 1"))
    checked = run(installed / "reglage", "check", recipe.name, cwd=project)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = run(installed / "reglage", "run", recipe.name, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_shadows_them_all_the_same_is_one_line(project: Path) -> None:
    (project / "ftlib" / "__init__.py").unlink()
    (project / "ftlib").rmdir()
    paths = f"import sys; sys.path[0] = {str(project)!r}; sys.path.append({str(ROOT)!r})"
    start = [sys.executable, "-c", f"{paths}; import ftlib.__main__; ftlib.__main__.main()"]
    done = subprocess.run(start, capture_output=True, text=True, cwd=project)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"reglage: Python finds another package 'flows', {project / 'flows'}, before")


@pytest.mark.prefect
def test_the_temporary_server_starts_there_and_ends_when_its_parent_is_killed(project: Path) -> None:
    """The parent is a process that starts one, waits for it and is killed."""
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from flows.prefect_server import TemporaryServer
server = TemporaryServer(Path("server.log").absolute())
print(server._process.pid, flush=True)
server.wait()
print("there", flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True, cwd=project, env=environment
    )
    assert parent.stdout is not None
    server = Path("/proc", parent.stdout.readline().strip())
    assert parent.stdout.readline() == "there\n", (project / "server.log").read_text()
    parent.kill()
    parent.wait()
    killed = time.monotonic()
    while server.exists() and "(zombie)" not in (server / "status").read_text():
        assert time.monotonic() - killed < 3, "it outlives its parent"
        time.sleep(0.02)


def test_rays_workers_are_not_told_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ftlib.on_ray.session import job_config, worker_environment

    monkeypatch.chdir(tmp_path)
    paths = job_config()._py_driver_sys_path
    paths.extend(["/scripts", str(tmp_path)])  # as ray.init does
    assert paths == ["/scripts"]
    assert worker_environment()["PYTHONSAFEPATH"] == "1"


def test_rays_session_folder_is_closed_to_others_and_gone_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed run left goes with the next one; what a living one holds stays."""
    from ftlib.on_ray.session import _own_folder

    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="r"))
    monkeypatch.setenv("RAY_TMPDIR", str(root))
    (root / "reglage-ray-dead").mkdir()
    (root / "reglage-ray-dead" / ".lock").touch()
    with _own_folder() as first, _own_folder() as second:
        assert len({Path(first).parent, Path(second).parent}) == 2
        for folder in map(Path, (first, second)):
            assert folder.parent.parent == root
            assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        assert {path.name for path in root.iterdir()} == {Path(first).parent.name, Path(second).parent.name}
    assert list(root.iterdir()) == []
    root.rmdir()
