"""Where jobs are prepared, started, killed and looked at.

This process imports all that the commands need and does nothing else: each command and each look is a fork of it, since
imports would be most of the CPU that a kill costs, and a process that has worked has threads that a fork would miss.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.reliability_facts import differing, facts
from benchmarks.reliability_jobs import RECIPE, STAGES, Job, recipe
from benchmarks.rounds import same_for_all

STATE = ("work", "registry", "answers", "log")
MARK = "REGLAGE_RELIABILITY"
PATIENCE = 300.0
"""Seconds a command may take; more is a fault."""
LASTING = 2.0
"""Seconds that a command which does not end by itself goes on after it was used."""
LOOKS = 0.004
"""Seconds between two looks at a folder."""


@dataclass(frozen=True)
class Undisturbed:
    """What a job makes, and how long it may be killed."""

    facts: dict[str, Any]
    window_seconds: float


@dataclass
class Process:
    """A command that was started, in a session of its own."""

    pid: int
    mark: str
    began: float = field(default_factory=time.monotonic)
    code: int | None = None
    seconds: float = 0.0

    def over(self) -> bool:
        """Say whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.began
        return self.code is not None

    def ends_within(self, seconds: float) -> bool:
        """Wait so long, and say whether it has ended."""
        deadline = time.monotonic() + seconds
        while not self.over() and time.monotonic() < deadline:
            time.sleep(min(LOOKS, max(deadline - time.monotonic(), 0.0)))
        return self.over()

    def wait(self) -> int:
        """Wait until it ends; return its exit code, negative for a signal's. What takes too long is killed."""
        if not self.ends_within(PATIENCE):
            self.kill("tree")
            self.ends_within(PATIENCE)
        return -signal.SIGKILL if self.code is None else self.code

    def kill(self, how: str) -> None:
        """End its whole tree or its main process by SIGKILL, or ask it by SIGTERM."""
        if how == "tree":
            for pid in {self.pid, *self.others()}:
                _signal(pid, signal.SIGKILL)
        else:
            _signal(self.pid, signal.SIGTERM if how == "asked" else signal.SIGKILL)

    def others(self) -> dict[int, str]:
        """Return the other processes that it started, however far down, with their command lines."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) not in (self.pid, os.getpid()):
                try:
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                    if stat[0] not in "ZX" and (int(stat[3]) == self.pid or marked):
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().replace("\0", " ")[:120]
                except OSError:
                    continue
        return found

    def left(self, longest: float) -> tuple[list[str], float]:
        """Wait until none of them is left, or for so long; return those that are, and the seconds."""
        began = time.monotonic()
        while (others := self.others()) and time.monotonic() - began < longest:
            time.sleep(0.05)
        for pid in others:
            _signal(pid, signal.SIGKILL)
        return list(others.values()), time.monotonic() - began


class Arena:
    """A folder with one for each job."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs, self.started = folder, dict[str, Job](), 0

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Generator[Arena]:
        """Import all that is needed, and have one Prefect server for all."""
        os.environ.update(same_for_all(1))
        from flows.prefect_server import TemporaryServer

        server = TemporaryServer(folder / "prefect-server.log")
        try:
            server.use()
            _import_all(folder / "first")
            server.wait()
            yield cls(folder)
        finally:
            server.stop()

    def prepare(self, name: str, job: Job) -> Undisturbed:
        """Make a job's folder and keep its state; run it once, undisturbed."""
        self.jobs[name] = job
        here = self.folder / name
        here.mkdir()
        self._forked(lambda: job.prepare(here, lambda *words: self._must(name, *words)), here / "prepare.txt")
        (here / "base").mkdir()
        for part in STATE:
            if (here / part).exists():
                shutil.copytree(here / part, here / "base" / part, symlinks=True)
        self.reset(name)
        process = self.start(name, "undisturbed")
        first = last = None
        while not process.over():
            if job.window(here):
                last = time.monotonic()
                first = first or last
                if job.lasting:
                    job.lasting(here)
                    time.sleep(LASTING)
                    last = time.monotonic()
                    process.kill("asked")
                    process.wait()
            time.sleep(LOOKS)
        if process.code or first is None or last is None:
            raise RuntimeError(f"{name}, undisturbed, ended with {process.code}: {self.said(name, 'undisturbed')}")
        return Undisturbed(self.facts(name), last - first)

    def again(self, name: str) -> Process:
        """Run a job's command to its end; one that lasts is asked to end once it has done its work."""
        process, lasting = self.start(name, "again"), self.jobs[name].lasting
        if lasting and self.in_window(name, process):
            lasting(self.folder / name)
            time.sleep(LASTING)  # it answers before it has said that it does, and until then a stop is one of its start
            process.kill("asked")
        process.wait()
        return process

    def reset(self, name: str) -> None:
        """Put a job's state back to what it was before."""
        here = self.folder / name
        for part in STATE:
            shutil.rmtree(here / part, ignore_errors=True)
            if (here / "base" / part).exists():
                shutil.copytree(here / "base" / part, here / part, symlinks=True)

    def start(self, name: str, said: str) -> Process:
        """Start a job's command; what it says goes to a file of its folder."""
        self.started += 1
        mark, here, job = f"{os.getpid()}-{self.started}", self.folder / name, self.jobs[name]
        log = here / f"{said}.txt"
        if not job.own_process:
            return Process(_fork(lambda: _command(job.words), log, here, mark), mark)
        environment = {
            key: value for key, value in os.environ.items() if key not in ("PREFECT_API_URL", "PREFECT_HOME")
        }
        line = [str(Path(sys.executable).with_name("reglage")), *job.words]
        with log.open("wb") as stream:
            started = subprocess.Popen(
                line, cwd=here, env={**environment, MARK: mark}, stdout=stream, stderr=stream, start_new_session=True
            )
        return Process(started.pid, mark)

    def in_window(self, name: str, process: Process) -> bool:
        """Wait until a job may be killed; False if it ended before."""
        while not process.over():
            if self.jobs[name].window(self.folder / name):
                return True
            time.sleep(LOOKS)
        return False

    def stage(self, name: str) -> str:
        """Return the stage that fills a folder just now; empty where none does."""
        return next((one.parent.name for one in (self.folder / name / "work" / "stages").glob("*/*.work")), "")

    def facts(self, name: str) -> dict[str, Any]:
        """Return what there is in a job's folder. Raises RuntimeError where that cannot be read."""
        here = self.folder / name
        self._forked(lambda: _write(here / "facts.json", facts(here)), here / "facts.txt")
        return json.loads((here / "facts.json").read_text())

    def differing(self, name: str, undisturbed: Undisturbed) -> list[str]:
        """Return what a kill broke."""
        try:
            return differing(self.facts(name), undisturbed.facts)
        except RuntimeError as error:
            return [f"unreadable: {error}"]

    def said(self, name: str, what: str) -> str:
        """Return the last words of a command."""
        return (self.folder / name / f"{what}.txt").read_text(errors="replace")[-1500:]

    def _must(self, name: str, *words: str) -> None:
        here = self.folder / name
        self._forked(lambda: _command(words), here / f"prepare-{words[0]}.txt")

    def _forked(self, call: Callable[[], None], log: Path) -> None:
        process = Process(_fork(call, log, log.parent, "look"), "look")
        if process.wait():
            raise RuntimeError(f"{log.parent.name}: {log.read_text(errors='replace')[-1500:]}")


def _command(words: tuple[str, ...]) -> None:
    if words[0] == STAGES:
        return _all_stages(*words[1:])
    from flows.command_line.main import main

    sys.argv = ["reglage", *words]
    main([*words])


def _all_stages(path: str, *overrides: str) -> None:
    from flows.run.steps import inputs, steps
    from ftlib.recipe.file import load_recipe
    from ftlib.stages.step import walk
    from ftlib.workspace import Workspace

    loaded, work = load_recipe(Path(path), overrides), Workspace("work")
    with work.hold(f"runs/{loaded.name}", wait=False):
        walk(steps(loaded, work, inputs(loaded, work)), lambda step: step.stage(step.job, work))


def _fork(call: Callable[[], object], log: Path, folder: Path, mark: str) -> int:
    """Start a process that makes a call in a folder and a session of its own; return its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ[MARK] = mark
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(stream, descriptor)
        call()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what the parent registered for its own end is not this one's


def _import_all(folder: Path) -> None:
    """Import what the flows name, and what a first walk through all stages needed beside: a fork tells it."""
    for name in ("flows.command_line.registry", "flows.finetune", "flows.retrain", "transformers"):
        import_module(name)
    known, told = {*sys.modules}, folder / "modules.txt"

    def first() -> None:
        recipe(folder, epochs=1)
        _all_stages(RECIPE)
        facts(folder)
        told.write_text("\n".join(name for name in sys.modules if name not in known))

    folder.mkdir()
    if Process(_fork(first, folder / "first.txt", folder, "first"), "first").wait():
        raise RuntimeError((folder / "first.txt").read_text(errors="replace")[-1500:])
    for name in told.read_text().split():
        with suppress(Exception):  # some are made when they are asked for, and have no file
            import_module(name)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
