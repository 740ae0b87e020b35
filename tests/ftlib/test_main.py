"""A project's own packages `flows` and `tasks` in the working folder, or on PYTHONPATH."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

import pytest

import ftlib
from ftlib.__main__ import shadowing
from ftlib.testing import tiny_recipe

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout's files, built without its repository."""
    root = tmp_path_factory.mktemp("wheel")
    for name in ("ftlib", "flows", "tasks", "deployments", "recipes", "docs"):
        shutil.copytree(ROOT / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "requirements.lock", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, root / "source" / name)
    build = [sys.executable, "-c", "from setuptools.build_meta import build_wheel; build_wheel('..')"]
    environment = {**os.environ, "REGLAGE_COMMIT": COMMIT}
    subprocess.run(build, check=True, capture_output=True, cwd=root / "source", env=environment)
    (built,) = root.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in an environment of its own, which sees what ours has but not the checkout."""
    root = tmp_path_factory.mktemp("installed")
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
    environment = {**kept, **variables}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, input="a line\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("flows", "tasks", "ftlib", "deployments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else’s')\n")
    return tmp_path


def test_ours_are_found_to_be_ours() -> None:
    assert (shadowing("flows"), shadowing("tasks")) == (None, None)
    assert shadowing("json") == str(Path(os.__file__).parent / "json")


def test_a_wheel_carries_what_is_used_outside_a_checkout(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    places = [path for name in ("recipes", "deployments") for path in (ROOT / name).rglob("*")]
    places += [*ROOT.glob("ftlib/**/*.jinja"), ROOT / "ftlib" / "py.typed"]
    kept = {".yaml", ".md", ".py", ".jinja", ".typed"}
    wanted = {path.relative_to(ROOT).as_posix() for path in places if path.suffix in kept}
    wanted |= {
        path.relative_to(ROOT).as_posix() for top in ("ftlib", "flows", "tasks") for path in ROOT.glob(f"{top}/**/*.py")
    }
    assert wanted <= names
    name = f"reglage-{ftlib.__version__}"
    assert f"{name}.dist-info/licenses/LICENSE" in names
    pages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert {f"{name}.data/data/share/doc/reglage/{page}" for page in pages} <= names
    roots = {name.partition("/")[0] for name in names}
    assert roots == {"deployments", "flows", "ftlib", "recipes", "tasks", f"{name}.data", f"{name}.dist-info"}


def test_a_wheel_in_a_folder_with_packages_of_these_names(installed: Path, project: Path) -> None:
    version = run(installed / "reglage", "--version", cwd=project)
    lock = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()[:12]
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout == f"reglage {ftlib.__version__}, commit {COMMIT}, lock {lock}\n"
    # What the temporary server is started as, and a worker with the deployments' job variables.
    for options, variables in ((["-P"], {}), ([], {"PYTHONSAFEPATH": "1"})):
        where = "from importlib.util import find_spec as f; print(*(f(name).origin for name in NAMES))"
        names = ("ftlib.__main__", "tasks.train", "flows.finetune", "flows.prefect_server", "deployments.automations")
        where = where.replace("NAMES", repr(names))
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
    """One of Ray's workers trains, one evaluates; what is published says which commit made it."""
    recipe = tiny_recipe(project)
    recipe.write_text(recipe.read_text().replace("workers: 0", "workers: 1, evaluation_workers: 1"))
    commands: list[list[str]] = [
        ["init", "--example", "quickstart"],
        ["check", "recipes/quickstart.yaml"],
        ["check", recipe.name],
        ["run", recipe.name],
        ["predict", "tiny-router@1"],
        ["lineage", "tiny-router@1"],
    ]
    said = ""
    for command in commands:
        done = run(installed / "reglage", *command, cwd=project)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        said = done.stdout
    assert f"commit {COMMIT}" in said
    helper = run(
        installed / "python", "-P", "-m", "recipes.icons", "rows/icons", "nothing.deb", cwd=project, PATH="/nowhere"
    )
    assert helper.stderr.startswith("icons: apt-get is not on this machine")


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
