"""What becomes of a deployed run when what it stands on is killed: `python -m benchmarks.deployed_kills [--postgres]`.

`reglage up` on the loopback, on SQLite or on a PostgreSQL server of its own. A run trains; SIGKILL for the worker,
Prefect's server, the database, Ray's head, the run's own processes, alone and together. Said is whether the run went
on or was Crashed, after how many seconds, and after how many it trained again. Then two schedules fire at once, and a
short run goes to its end: what is in the registry then is examined.
"""

from __future__ import annotations

import argparse
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from benchmarks.deployed import ENDED, Installation, said, waited
from benchmarks.machine import describe_machine
from benchmarks.rounds import print_result, print_table
from deployments.machine.processes import Process, kill, process, running_flows
from deployments.machine.state import StateFolder
from infra import postgres

TOGETHER: tuple[tuple[str, ...], ...] = (
    ("worker",),
    ("server",),
    ("database",),
    ("worker", "server", "database"),
    ("flow",),
    ("flow", "worker", "server"),
)
"""Of one run, in this order: what it goes on after, then what it is Crashed by and run again, twice at most."""
HEAD, RAY = ("ray head",), ("/gcs_server", "/raylet")
JUST = 20.0
"""Seconds: a training writes a checkpoint every 2, on a busy machine more rarely."""


class Standing:
    """An installation, its database where that is PostgreSQL, and a run that trains for as long as it is let."""

    def __init__(self, home: Path, database: postgres.Server | None) -> None:
        if database:
            url = f"postgresql://{postgres.USER}:{database.password}@127.0.0.1:{database.port}/postgres"
            os.environ["REGLAGE_DATABASE"] = url
        self.database = database
        self.here = Installation(home, rows=400, epochs=3000)
        self.state = StateFolder(home)
        self.again: list[subprocess.Popen[Any]] = []

    def kill(self, what: str, run: str) -> None:
        """Kill one thing without asking; a database is started again at once, as a service manager would."""
        if what == "database":
            return self._kill_database()
        flows = running_flows().get(run, [])
        if what == "flow":
            victims = flows
        elif what == "ray head":
            victims = self.ray_head(run)
        else:
            service = self.state.read().services[what].process
            victims = [service] if service else []
        if not victims:
            raise RuntimeError(f"there is no {what} to kill")
        kill(victims)

    def ray_head(self, run: str) -> list[Process]:
        """Return the processes of the Ray that a run started for itself; of a probe's training there are none yet."""
        ours = running_flows().get(run, [])
        return [one for one in ours if _line(one.pid)[0].endswith(RAY)]

    def _kill_database(self) -> None:
        assert self.database
        old = _postmaster(self.database.port)
        folder, line = Path(f"/proc/{old.pid}/cwd").readlink(), _line(old.pid)
        owner = Path(f"/proc/{old.pid}").stat().st_uid
        account = pwd.getpwuid(owner)
        kill([old])
        lock = Path(line[line.index("-D") + 1]) / "postmaster.pid"
        time.sleep(2.0)  # its sessions see that it is gone
        lock.unlink(missing_ok=True)
        as_user: dict[str, Any] = (
            {"user": owner, "group": account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        with (folder / "log").open("ab") as log:
            self.again.append(subprocess.Popen(line, cwd=folder, stdout=log, stderr=log, **as_user))

    def close(self) -> None:
        """Stop it all."""
        self.here.command("down")
        for one in self.again:
            one.send_signal(signal.SIGINT)
            one.wait(30)

    def up(self) -> bool:
        """Say whether all programs run and the server answers."""
        services = self.state.read().services
        alive = all((one := services[name].process) and one.lives() for name in ("server", "worker"))
        try:
            return alive and self.here.api.get("/health").json() is True
        except (httpx.HTTPError, ValueError):
            return False

    def run(self, run: str) -> dict[str, Any]:
        """Return a run as its page has it, {} while nobody answers."""
        try:
            answer = self.here.api.get(f"/flow_runs/{run}")
            return answer.json() if answer.is_success else {}
        except (httpx.HTTPError, ValueError):
            return {}

    def crashed(self, run: str) -> int:
        """Return how often a run has been Crashed; -1 while nobody answers."""
        try:
            answer = self.here.api.get("/flow_run_states/", params={"flow_run_id": run})
            return sum(one["type"] == "CRASHED" for one in answer.json()) if answer.is_success else -1
        except (httpx.HTTPError, ValueError):
            return -1

    def trains(self, run: str) -> bool:
        """Say whether it has a process, and a training has just put something into its folder."""
        return bool(running_flows().get(run)) and self.here.fills("train", time.time() - JUST)


def struck(one: Standing, run: str, what: Sequence[str]) -> dict[str, object]:
    """Kill these together while a run trains; say what became of the run."""
    waited("a training", lambda: one.trains(run) and one.up() and (what != HEAD or len(one.ray_head(run)) == len(RAY)))
    crashes, begun = one.crashed(run), time.monotonic()
    ends = "flow" in what or what == HEAD
    for part in what:
        one.kill(part, run)
    found: dict[str, object] = {"killed": ", ".join(what)}
    if ends:
        waited("Crashed", lambda: one.crashed(run) > crashes or one.run(run).get("state_type") in ENDED)
        found["Crashed after s"] = round(time.monotonic() - begun)
    else:
        found["Crashed after s"] = "goes on"
    waited("all is up", one.up)
    found["all up after s"] = round(time.monotonic() - begun)
    if ends:
        waited("it trains again", lambda: one.trains(run) or one.run(run).get("state_type") == "FAILED")
        found["trains again after s"] = round(time.monotonic() - begun)
    else:
        time.sleep(20.0)  # as long as a look for lost runs takes
        found["trains again after s"] = 0 if one.trains(run) else "NEVER"
    now = one.run(run)
    return said({**found, "then": f"{now.get('state_name')}, attempt {now.get('run_count')}"})


def ended(one: Standing, run: str) -> dict[str, object]:
    """Cancel a run; say after how many seconds no process of it is left."""
    begun = time.monotonic()
    one.here.press_cancel(run)
    waited("no process", lambda: run not in running_flows())
    gone = round(time.monotonic() - begun, 1)
    state = waited("its end", lambda: (now := one.run(run)).get("state_type") in ENDED and now)
    return said({"no process after s": gone, "page says": state["state_name"]})


def two_at_once(one: Standing) -> list[str]:
    """Start a recipe twice in one moment; return how both ended."""
    runs = [one.here.press_run("few") for _ in range(2)]
    ends = [
        waited("both to end", lambda run=run: (now := one.run(run)).get("state_type") in ENDED and now) for run in runs
    ]
    return said([f"{end['state_name']}: {(end['state'].get('message') or '')[:100]}" for end in ends])


def two_schedules(one: Standing) -> list[str]:
    """Deploy the retraining of a model that has no version, due twice in one minute; return how both runs ended."""
    due = datetime.now(UTC) + timedelta(minutes=2)
    crons = f"{due.minute} {due.hour} * * *", f"{due.minute} * * * *"
    one.here.command("deploy", "recipes/many.yaml", "--cron", crons[0], "--cron", crons[1], "--timezone", "UTC")
    deployment = one.here.api.get("/deployments/name/retrain/many").json()["id"]
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "expected_start_time": {"before_": str(due)}}}

    def ends() -> list[dict[str, Any]] | None:
        runs = one.here.api.post("/flow_runs/filter", json=wanted).json()
        return runs if len(runs) > 1 and all(run["state_type"] in ENDED for run in runs) else None

    runs = waited("both schedules' runs to end", ends)
    return said([f"{run['state_name']}: {(run['state'].get('message') or '')[:100]}" for run in runs])


@contextmanager
def standing(database: bool) -> Generator[Standing]:
    """Give an installation, and stop it, also where this process is asked to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    with (
        tempfile.TemporaryDirectory(prefix="reglage-struck-") as folder,
        postgres.server() if database else nullcontext() as server,
    ):
        one = Standing(Path(folder), server)
        try:
            yield one
        finally:
            one.close()


def main() -> None:
    """Start an installation, kill its parts, print tables and the result, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL behind Prefect, else SQLite")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray's head out")
    parser.add_argument("--only-ray", action="store_true", help="kill Ray's head alone, then start two at once")
    args = parser.parse_args()
    with standing(args.postgres) as one:
        rows: list[dict[str, object]] = []
        cancels: list[dict[str, object]] = []
        if not args.only_ray:
            run = one.here.press_run("few_long")
            rows += [struck(one, run, what) for what in TOGETHER if args.postgres or "database" not in what]
            cancels.append(ended(one, run))
        if not args.no_ray:
            run = one.here.press_run("few_long_on_ray")
            rows.append(struck(one, run, HEAD))
            cancels.append(ended(one, run))
        both, scheduled = two_at_once(one), two_schedules(one)
        examined = one.here.command("registry", "fsck", "--deep", "--json")
        versions = [one.here.command("registry", "list", name, "--json") for name in ("few", "many")]
    print_table("killed while it trains", (*rows[0],), [[str(cell) for cell in row.values()] for row in rows])
    print(f"two at once: {both}; two schedules of one minute: {scheduled}")
    ratios: dict[str, Any] = {
        "killed": rows,
        "cancelled": cancels,
        "two_at_once": both,
        "two_schedules": scheduled,
        "fsck": examined,
        "versions": versions,
    }
    print_result("deployed_kills", ratios, {**vars(args), **describe_machine()})


def _postmaster(port: int) -> Process:
    """Return PostgreSQL's first process of a port."""
    for entry in Path("/proc").iterdir():
        line = _line(int(entry.name)) if entry.name.isdecimal() else [""]
        if line[0].endswith("/postgres") and str(port) in line and (found := process(int(entry.name))):
            return found
    raise RuntimeError(f"no PostgreSQL on port {port}")


def _line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return [""]


if __name__ == "__main__":
    main()
