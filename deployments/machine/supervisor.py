"""The process behind `reglage up`: it starts what an installation needs, watches it, and stops it in order.

Its programs outlive it when it is killed, each in a session of its own: a training goes on, and the next `reglage up`
takes over whatever still runs with the settings that are wanted now, and ends the rest.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from deployments.machine import programs
from deployments.machine.api import Api
from deployments.machine.child import Child
from deployments.machine.database import check_database
from deployments.machine.lost_runs import LostRuns, put_back
from deployments.machine.ports import HOST, TENSORBOARD, listen
from deployments.machine.processes import Process, end, kill, listens, marked, now, process
from deployments.machine.programs import Program
from deployments.machine.server import SOCKET
from deployments.machine.state import Phase, Service, State, StateFolder
from deployments.machine.stopping_runs import stop_runs
from deployments.machine.systemd import notify
from ftlib.errors import BusyError, Interrupted, StorageError
from ftlib.storage.files import local_errors
from ftlib.workspace import exclusive

START_SECONDS = 180.0
"""A cold disk and a busy machine; the first start also makes the database."""
FIRST_TRIES = 2
"""How often a program may die before it ever answered: after that nothing but its settings can be wrong."""
LONGEST_BACK_OFF = 60.0
CALM_SECONDS = 300.0
"""After so long without dying a program counts as well: the next restart is quick again."""
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.5
LOST_SECONDS = 20.0
"""How often runs without a process are looked for."""
LONGEST_LOG = 20_000_000
"""Bytes of a log above which it is put aside when its program starts."""

BOARD_TRIES = 5

SERVER, WORKER, BOARD = "server", "worker", "tensorboard"


class AlreadyUp(BusyError):
    """Another process of `reglage up` has this home."""


@dataclass
class Supervisor:
    """One installation; `serve` runs it until it is told to stop."""

    folder: StateFolder
    say: Callable[[str], None]
    port: int | None = None
    database: str | None = None
    """PostgreSQL's URL; None for SQLite."""
    database_given: bool = False
    """Whether somebody chose it just now; else it is the one of last time."""
    environment: str | None = None
    """The environment to deploy; None for the one of last time, or that of Réglage's home."""
    recipes: tuple[Path, ...] = ()
    state: State = field(default_factory=State)
    _children: dict[str, Child] = field(default_factory=dict[str, Child])
    _socket: socket.socket | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _hurry: threading.Event = field(default_factory=threading.Event)

    def serve(self, ready: Callable[[State], None]) -> None:
        """Start everything, call `ready` once it answers, and watch it until SIGINT or SIGTERM; then stop it.

        Raises AlreadyUp where `reglage up` runs already, BusyError for a port that is held, StorageError where the
        state cannot be kept or a program does not come up, Interrupted where it was stopped before all was ready.
        Whatever it raises, nothing that it started is left.
        """
        self.folder.make()
        self.folder.check_space()
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(self.folder.lock, wait=False))
            except BusyError as error:
                raise AlreadyUp(str(error)) from None
            self.state = self.folder.read()
            if not self.database_given:
                self.database = self.state.database
            self.environment = self.environment or self.state.environment
            check_database(self.database)
            self._take_port()
            held.enter_context(self._signals())
            try:
                lost = self._start()
                notify("READY=1")
                ready(self.state)
                self._watch(lost)
            finally:
                notify("STOPPING=1")
                self._end()

    def clear(self) -> bool:
        """Stop what a killed `reglage up` left; say whether there was anything. Raises BusyError while one runs."""
        self.folder.make()
        with exclusive(self.folder.lock, wait=False):
            self.state = self.folder.read()
            left = bool(marked(self.folder.root))
            self._end()
            return left

    # -- start

    def _start(self) -> LostRuns:
        """Start server and TensorBoard, bring deployments up to date, put lost runs right, then start the worker."""
        self._phase("starting", supervisor=process(os.getpid()), database=self.database)
        self.state = self.state.model_copy(update={"environment": self.environment})
        for name in self.state.services:
            self.state = self.state.with_service(name, restarts=0)
        self._plan()
        self._leftovers()
        if not self._children[SERVER].lives():
            self.say(f"starting Prefect's server on {self._url}; a first start makes its database, up to a minute")
        for name in (SERVER, BOARD):
            self._begin(name)
        self._await(SERVER, lambda: self.api.answers(2.0))
        self.say("bringing deployments, limits and automations up to date")
        self._set_up()
        self._settle_board()
        self._settle_worker()
        name, asked = programs.worker_name(self.folder), time.time() - 1.0
        lost = LostRuns(self.api, self.state.pool, name, self.say)
        if not self._children[WORKER].lives():
            lost.look()
            self.say("starting the worker")
            self._begin(WORKER)
            self._await(WORKER, lambda: self.api.worker_polls(name, asked, self.state.pool))
        self._phase("up")
        return lost

    @property
    def api(self) -> Api:
        """Return the server's API."""
        return Api(self.state.url or "")

    def _take_port(self) -> None:
        """Listen on the server's port, or keep the one on which a server that was left still listens."""
        before = self.state.port
        left = self.state.services.get(SERVER)
        if left and left.process and left.process.lives() and self.port in (None, before):
            self.port = before
            return
        self._socket = listen(self.port, before)
        self.port = int(self._socket.getsockname()[1])
        if before and before != self.port:
            self.say(f"port {before}, which was Prefect's here before, is taken; now it is {self.port}")

    def _plan(self) -> None:
        """Say what is to run."""
        self._plan_server()
        self._plan_board()
        self._plan_worker()

    def _plan_server(self) -> None:
        assert self.port is not None
        self.state = self.state.model_copy(update={"port": self.port}).with_service(SERVER, url=self._url)
        self._children[SERVER] = Child(programs.server(self.folder, self.port, self.database))

    def _plan_worker(self) -> None:
        self._children[WORKER] = Child(self._worker())

    def _worker(self) -> Program:
        """Return the worker of the server, the pool and the TensorBoard of now."""
        return programs.worker(self.folder, self._url, self.state.pool, self.state.services[BOARD].url)

    def _plan_board(self) -> None:
        """Say where TensorBoard is to run: it takes no socket, so another may be quicker, and then it gets the next."""
        before, left = self.state.tensorboard_port, self.state.services.get(BOARD)
        if before and left and left.process and left.process.lives():
            port = before
        else:
            with listen(None, before, TENSORBOARD) as probe:
                port = int(probe.getsockname()[1])
        board = programs.tensorboard(self.folder, port)
        if board is None:
            self.state = self.state.with_service(
                BOARD, url=None, note="not installed: pip install 'reglage[tensorboard]'"
            )
            return
        self._children[BOARD] = Child(board)
        self.state = self.state.model_copy(update={"tensorboard_port": port})
        self.state = self.state.with_service(BOARD, url=f"http://{HOST}:{port}", note="")

    @property
    def _url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _leftovers(self) -> None:
        """Take over what an earlier `up` left and runs as wanted; end the rest of it, but no run."""
        kept: list[Process] = []
        for name, child in self._children.items():
            service = self.state.services.get(name)
            if service is None or service.process is None or not service.process.lives():
                continue
            if service.settings == child.program.digest() and (name != WORKER or self._same_server()):
                child.process, child.started, child.answered = service.process, time.monotonic(), True
                kept.append(service.process)
                self.say(f"{name}: process {service.process.pid} runs since {service.process.since}; it is taken over")
        others = [one for one in marked(self.folder.root) if one.pid not in {k.pid for k in kept}]
        strays = [one for one in others if not one.runs_flow() and not one.descends_from({k.pid for k in kept})]
        if strays:
            self.say(f"ending what an earlier `reglage up` left: process {', '.join(str(one.pid) for one in strays)}")
            worker = self.state.services.get(WORKER, Service()).process
            kill([one for one in strays if worker is not None and one.pid == worker.pid])  # asked, it kills its runs
            end(strays, STOP_SECONDS)
        if self._children[SERVER].process is None and self._socket is None:
            self._socket = listen(None, self.port)  # the server that was left was not as wanted
            self.port = int(self._socket.getsockname()[1])
            self._plan_server()
            self._plan_worker()

    def _same_server(self) -> bool:
        """Say whether the server is that of last time, its database too: a worker knows the runs of one."""
        before = self.state.services.get(SERVER)
        return before is not None and before.settings == self._children[SERVER].program.digest()

    def _begin(self, name: str) -> None:
        """Start a program, unless it runs or is none of this installation's."""
        child = self._children.get(name)
        if child is None or child.lives():
            return
        environment, descriptors = child.program.environment, ()
        if name == SERVER:
            if self._socket is None:
                self._socket = listen(self.port)
            environment = {**environment, SOCKET: str(self._socket.fileno())}
            descriptors = (self._socket.fileno(),)
        log = self.folder.log(name)
        with local_errors(log):
            if log.exists() and log.stat().st_size > LONGEST_LOG:
                log.replace(log.with_suffix(".old.log"))
            with log.open("ab") as stream:
                child.popen = subprocess.Popen(
                    child.program.command,
                    env=environment,
                    cwd=child.program.folder,
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,  # Ctrl-C goes to the whole group: these are stopped in order
                )
        child.process, child.started, child.answered = process(child.popen.pid), time.monotonic(), False
        self._note(name, process=child.process, settings=child.program.digest(), note="")

    def _await(self, name: str, answers: Callable[[], bool]) -> None:
        """Wait until a program answers. Raises StorageError, with the end of its log, if it does not."""
        child, deadline = self._children[name], time.monotonic() + START_SECONDS
        tries = 1
        while not answers():
            if not child.lives():
                if tries == FIRST_TRIES:
                    raise StorageError(f"{name} {child.ended()}: {self._last_words(name)}; see {self.folder.log(name)}")
                tries += 1
                self._begin(name)
            elif time.monotonic() > deadline:
                raise StorageError(f"{name} does not answer after {START_SECONDS:.0f} s; see {self.folder.log(name)}")
            self._pause(LOOK_SECONDS)
        child.answered = True

    def _settle_board(self) -> None:
        """Give TensorBoard a port before the worker tells it to runs; without one the installation goes on alone."""
        for _ in range(BOARD_TRIES):
            child, deadline = self._children.get(BOARD), time.monotonic() + STOP_SECONDS
            while child is not None and child.lives() and time.monotonic() < deadline:
                if (self.state.tensorboard_port or 0) in {port for _, _, port in listens([child.pid])}:
                    break
                self._pause(LOOK_SECONDS)
            if child is None or child.lives():
                break
            self._plan_board()
            self._begin(BOARD)

    def _settle_worker(self) -> None:
        """Plan the worker anew now that its pool is known; end one that was taken over and serves another."""
        child, wanted = self._children[WORKER], self._worker()
        if child.process is not None and child.lives():
            if child.program.digest() == wanted.digest():
                return
            self.say(f"worker: process {child.pid} served another pool or TensorBoard; it is ended, its runs go on")
            kill([child.process])  # asked, it kills its runs
            self._note(WORKER, process=None)
        self._plan_worker()

    def _set_up(self) -> None:
        """Bring deployments, limits and automations up to date. Raises StorageError for what the program says."""
        program = programs.setup(self.folder, self._url, self.environment, self.recipes)
        log, answer = self.folder.log("setup"), self.folder.root / "setup.json"
        with local_errors(log), log.open("ab") as stream, answer.open("wb") as said:
            popen = subprocess.Popen(
                program.command,
                env=program.environment,
                cwd=program.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=stream,
                start_new_session=True,
            )
        try:
            while popen.poll() is None:
                self._pause(0.1)
        finally:
            if popen.poll() is None:
                popen.kill()
                popen.wait()
        if popen.returncode:
            raise StorageError(f"the deployments could not be made: {self._last_words('setup')}; see {log}")
        done = json.loads(answer.read_bytes().splitlines()[-1])
        for line in done["changes"]:
            self.say(line)
        self.state = self.state.model_copy(update={"pool": done["pool"]})

    def _last_words(self, name: str) -> str:
        """Return the line of a log that says most: the last one of an error."""
        with local_errors(self.folder.log(name)):
            text = self.folder.log(name).read_bytes()[-20_000:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return next((line for line in reversed(lines) if "Error" in line or line.startswith("reglage:")), "") or (
            lines[-1] if lines else "it said nothing"
        )

    # -- watch

    def _watch(self, lost: LostRuns) -> None:
        """Start again what dies, later and later, until told to stop."""
        next_look = time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            for name, child in self._children.items():
                self._keep(name, child)
            if time.monotonic() >= next_look:
                lost.look(self._children[WORKER].process)
                next_look = time.monotonic() + LOST_SECONDS

    def _keep(self, name: str, child: Child) -> None:
        """Say that a program died, and start it again once its pause is over."""
        if child.lives():
            return
        if child.process is not None:  # it has just died
            calm = time.monotonic() - child.started > CALM_SECONDS
            child.deaths = 1 if calm else child.deaths + 1
            wait = min(2.0 ** (child.deaths - 1), LONGEST_BACK_OFF)
            child.again = time.monotonic() + wait
            said = f"{child.ended()}; it is started again in {wait:.0f} s ({self.folder.log(name)})"
            self.say(f"{name} (process {child.process.pid}) {said}")
            restarts = self.state.services[name].restarts + 1
            child.process = None
            self._note(name, process=None, restarts=restarts, note=said)
        if time.monotonic() >= child.again:
            try:
                self._begin(name)
            except (StorageError, OSError) as error:  # a full disk must not take down what still runs
                child.again = time.monotonic() + LONGEST_BACK_OFF
                self.say(f"{name} cannot be started: {error}")

    # -- stop

    def _end(self) -> None:
        """Stop runs and worker, then TensorBoard, then the server; nothing that belongs to this folder is left."""
        if self.state.phase == "down" and not marked(self.folder.root):
            return
        self._phase("stopping")
        self._end_worker()
        for name in (BOARD, SERVER):
            if (service := self.state.services.get(name)) and service.process and service.process.lives():
                self._end_program(name, service.process, STOP_SECONDS)
        late = end(marked(self.folder.root), 2.0)
        if late:
            self.say(f"had to be ended: process {', '.join(str(one.pid) for one in late)}")
        if self._socket is not None:
            self._socket.close()
        self.state = self.state.model_copy(update={"supervisor": None})
        for name in self.state.services:
            self.state = self.state.with_service(name, process=None)
        self._phase("down")

    def _end_worker(self) -> None:
        """End the runs that go on and their worker: each saves what it trained, and waits for the next `up`.

        A worker that is asked to end kills its runs at once, in the middle of a step. So it is held first, that it
        neither starts nor kills any, and has nothing more to say once they are gone.
        """
        service = self.state.services.get(WORKER)
        worker = service.process if service and service.process and service.process.lives() else None
        if worker is not None:
            worker.send(signal.SIGSTOP)
        api = self.api if self.state.url and self.api.answers(2.0) else None
        stopped = stop_runs(self.folder, api, self.state.pool, self._hurry, self.say)
        if worker is not None:
            worker.send(signal.SIGKILL)
            worker.wait(5.0)
            self._note(WORKER, process=None)
        if stopped and api:
            put_back(api, stopped, self.say)

    def _end_program(self, name: str, running: Process, grace: float) -> None:
        running.send(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while not running.wait(LOOK_SECONDS):
            if time.monotonic() > deadline or self._hurry.is_set():
                running.send(signal.SIGKILL)
                running.wait(5.0)
                break
        self._note(name, process=None)

    # -- state

    def _phase(self, phase: Phase, **changes: object) -> None:
        self.state = self.state.model_copy(update={"phase": phase, "since": now(), **changes})
        self._write()

    def _note(self, name: str, **changes: object) -> None:
        self.state = self.state.with_service(name, **changes)
        self._write()

    def _write(self) -> None:
        try:
            self.folder.write(self.state)
        except StorageError as error:
            if self.state.phase == "starting":
                raise
            self.say(f"the state cannot be kept: {error}")  # a full disk must not take down what runs

    # -- signals

    @contextmanager
    def _signals(self) -> Generator[None]:
        """Stop on SIGINT and SIGTERM; a second one ends the runs at once."""

        def stop(number: int, _: FrameType | None) -> None:
            if self._stop.is_set():
                self._hurry.set()
            self._stop.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Interrupted("stopped before everything was up")
