"""Take docs/images/prefect-*.png: a server, a worker and chromium on the loopback, and a tiny model.

    python infra/screenshots.py FOLDER [--out docs/images]

FOLDER holds the server's database, a project with two recipes, and the browser's files. What a person would do is done
by chromium: a form is filled in and submitted, a run watched, a promotion approved. Each step prints what it took.
"""

import argparse
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from infra.chromium import HEIGHT, WIDTH, Page, chromium, free_port  # noqa: E402

FLOWS = {
    "finetune": "flows.finetune.finetune",
    "retrain": "flows.retrain.retrain",
    "evaluate": "flows.evaluate.evaluate",
    "interpolate": "flows.interpolate.interpolate",
    "promote": "flows.promote.promote",
    "rollback": "flows.promote.rollback",
    "search": "flows.search.search",
    "monitor": "flows.monitor.monitor",
}
RECIPES = ["recipes/tickets.yaml", "recipes/tickets_quick.yaml", "recipes/tickets_search.yaml"]
SEARCH = """
search:
  space:
    phases.tune.optimizer.learning_rate: {kind: log_uniform, low: 1.0e-5, high: 1.0e-1}
  trials: 4
"""
LISTS = {"Models", "Checkpoints"}


def write_project(folder: Path) -> None:
    """Write a model, rows, and recipes: one that trains for a minute, one for a second, and one that searches."""
    from ftlib.testing import tiny_recipe

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "recipes").mkdir(exist_ok=True)
    text = tiny_recipe(data).read_text(encoding="utf-8")
    text = (
        text.replace(f"{data}/registry", "registry")
        .replace(f"{data}/", "data/")
        .replace("name: tiny\n", "name: tickets\n")
    )
    text = text.replace("tiny-router", "ticket-router") + "retrain: {approval: by_hand}\n"
    long = text.replace("epochs: 1,", "epochs: 200,").replace("workers: 0", "workers: 1")
    (folder / RECIPES[0]).write_text(long, encoding="utf-8")
    quick = text.replace("name: tickets\n", "name: tickets_quick\n")
    (folder / RECIPES[1]).write_text(f"{quick}monitor: {{log: {{place: log}}}}\n", encoding="utf-8")
    searched = text.replace("name: tickets\n", "name: tickets_search\n").replace("ticket-router", "ticket-search")
    (folder / RECIPES[2]).write_text(searched + SEARCH, encoding="utf-8")


def write_log(project: Path, model: str) -> int:
    """Let the version in place answer longer questions than it was made with; return its number."""
    from ftlib.registry import ModelRegistry
    from ftlib.storage import LocalStore
    from ftlib.testing import LABELS

    entry = ModelRegistry(LocalStore(project / "registry")).alias(model, "champion")
    assert entry is not None
    chance, version, now = random.Random(0), entry.version, datetime.now(UTC).isoformat()
    kinds: dict[str, list[str]] = {"answers": [], "labels": []}
    for i in range(2000):
        said, length = chance.choice(LABELS), chance.randint(80, 200)
        measures = {"length": length, "tokens": length // 4, "unknown": 0}
        about = {"request": f"r{i}", "at": now}
        answer = {**about, "name": model, "version": version, "label": said, "probability": 0.8, "measures": measures}
        kinds["answers"].append(json.dumps(answer))
        kinds["labels"].append(json.dumps({**about, "label": said if chance.random() < 0.9 else LABELS[0]}))
    for kind, lines in kinds.items():
        (project / "log" / kind).mkdir(parents=True, exist_ok=True)
        (project / "log" / kind / "monday.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return version


@contextmanager
def going(words: Sequence[str], log: Path, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a program in its own group until the block ends."""
    with log.open("ab") as stream:
        program = subprocess.Popen(words, cwd=folder, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield program
    finally:
        for _ in range(2):  # a worker swallows the first
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                program.wait(20)
                break
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)


@contextmanager
def installation(folder: Path) -> Generator[str]:
    """Start a server and a worker with every flow deployed; give the address of the pages."""
    port = free_port()
    os.environ |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "REGLAGE_TENSORBOARD_URL": "http://127.0.0.1:6006",
        "DO_NOT_TRACK": "1",
    }
    prefect, project = [sys.executable, "-m", "prefect"], folder / "project"
    write_project(project)
    with going(
        [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)], folder / "server.log", folder
    ):
        _wait_for(f"http://127.0.0.1:{port}/api/health")
        deploy_all(project)
        with going(
            [*prefect, "worker", "start", "--pool", "reglage", "--type", "process"], folder / "worker.log", project
        ):
            yield f"http://127.0.0.1:{port}/v2"


def deploy_all(project: Path) -> None:
    """Deploy every flow with its form."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    from flows.pages.form_schema import form_schema

    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name="reglage", type="process"))
        for name, entrypoint in FLOWS.items():
            module, _, function = entrypoint.rpartition(".")
            flow = getattr(importlib.import_module(module), function)
            schema = form_schema(flow, RECIPES)
            client.create_deployment(
                client.create_flow(flow),
                name=name,
                entrypoint=entrypoint,
                work_pool_name="reglage",
                parameters={"recipe": RECIPES[0]} if "recipe" in schema["properties"] else {},
                parameter_openapi_schema=schema,
                enforce_parameter_schema=True,
                job_variables={"working_dir": str(project), "env": {"PYTHONSAFEPATH": "1"}},
            )


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(url)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def deployment_id(name: str) -> str:
    """Return a deployment's id."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return str(client.read_deployment_by_name(f"{name}/{name}").id)


def newest_run(deployment: str) -> Any:
    """Return the run of a deployment that was made last; None where there is none."""
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    with get_client(sync_client=True) as client:
        of_it = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
        return max(client.read_flow_runs(deployment_filter=of_it, limit=200), key=lambda r: r.created, default=None)


def wait_for_state(run: Any, state: str, seconds: float = 900) -> Any:
    """Wait until a run is in a state of this type; return it. Raises RuntimeError where it ends in another."""
    from prefect import get_client

    deadline = time.monotonic() + seconds
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            now = client.read_flow_run(run.id).state
            if now and now.type.value == state:
                return client.read_flow_run(run.id)
            if now and now.is_final():
                raise RuntimeError(f"{run.name} is {now.name}: {now.message}")
            time.sleep(1)
    raise TimeoutError(f"{run.name} is not {state}")


def artifacts(run: Any) -> dict[str, Any]:
    """Return a run's artifacts by their keys."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        return {artifact.key: artifact for artifact in client.read_artifacts(flow_run_filter=of_run)}


def wait_for_artifact(run: Any, key: str, words: str = "", seconds: float = 600) -> Any:
    """Wait until a run shows a text with these words under a key."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        shown = artifacts(run).get(key)
        if shown and words in f"{shown.description} {shown.data}":
            return shown
        time.sleep(1)
    raise TimeoutError(f"{run.name} shows no {key} with {words!r}")


class Photographer:
    """A person with a browser and a camera."""

    def __init__(self, page: Page, pages: str, project: Path, out: Path) -> None:
        self.page, self.pages, self.project, self.out = page, pages, project, out
        self._began, self._form = time.monotonic(), ""

    def say(self, words: str) -> None:
        """Print what is done, and when."""
        print(f"{time.monotonic() - self._began:6.0f} s  {words}", flush=True)

    def picture(self, name: str, height: int = HEIGHT) -> None:
        """Take a picture of the window, so high."""
        self.page.size(WIDTH, height)
        time.sleep(1.5)
        path = self.out / f"prefect-{name}.png"
        self.page.picture(path)
        self.say(f"{path.name}: {path.stat().st_size // 1000} kB")

    def form(self, name: str) -> None:
        """Open a deployment's form."""
        self._form = name
        self.page.size(WIDTH, 2700)
        self.page.open(f"{self.pages}/deployments/deployment/{deployment_id(name)}/run")
        self.page.wait_text("Parameters")
        self.page.wait_text("Enforce Parameter Schema")

    def fill(self, label: str, text: str) -> None:
        """Type into the field below a label."""
        self._mark(label, "input, textarea", 0)
        self.page.type("[data-asked]", text)

    def add(self, label: str, *texts: str) -> None:
        """Add items to the list below a label."""
        for i, text in enumerate(texts):
            self._mark(label, "button", -1)
            self.page.run("document.querySelector('[data-asked]').click()")
            self._mark(label, "input, textarea", i)
            self.page.type("[data-asked]", text)

    def _mark(self, label: str, what: str, number: int) -> None:
        """Mark the nth of something in the smallest part of the page that has it and a label; for -1 *Add item*.

        The items of a list are looked for in the part that has its *Add item*.
        """
        adds = what == "button"
        self.page.wait(
            f"""(() => {{
              document.querySelectorAll('[data-asked]').forEach(e => e.removeAttribute('data-asked'));
              const add = e => [...e.querySelectorAll('button')].find(b => b.innerText.trim() == 'Add item');
              let e = [...document.querySelectorAll('label')].find(e => e.innerText.trim().startsWith({label!r}));
              while (e && !({json.dumps(adds)} || {json.dumps(label in LISTS)} ? add(e) : e.querySelector({what!r})))
                e = e.parentElement;
              const found = {json.dumps(adds)} ? add(e) : e.querySelectorAll({what!r})[{number}];
              if (!found) return false;
              found.setAttribute('data-asked', '1');
              return true;
            }})()"""
        )

    def tick(self, label: str) -> None:
        """Set the switch or the box below a label."""
        self._mark(label, "button[role=checkbox], button[role=switch], input[type=checkbox]", 0)
        self.page.run("document.querySelector('[data-asked]').click()")

    def choose(self, now: str, then: str) -> None:
        """Choose from a list that shows `now`."""
        self.page.click(now, "[role=combobox], button")
        self.page.click(then, "[role=option], [cmdk-item]")

    def submit(self) -> Any:
        """Submit the form and return the run."""
        before = newest_run(self._form)
        self.page.click("Submit")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (run := newest_run(self._form)) and (not before or run.id != before.id):
                self.say(f"submitted {run.name}: {run.parameters}")
                return run
            time.sleep(0.5)
        raise TimeoutError(f"nothing was submitted: {self.page.text()[-1500:]}")

    def run_page(self, run: Any, tab: str) -> None:
        """Open a run's page at a tab."""
        self.page.size(WIDTH, HEIGHT + 200)
        self.page.open(f"{self.pages}/runs/flow-run/{run.id}")
        self.page.wait_text("Task Runs")
        time.sleep(3)  # its time line grows
        self.page.click(tab)
        time.sleep(3)

    def menu(self, entry: str) -> None:
        """Open the menu of a run's page, and press an entry."""
        place = self.page.wait(
            """(() => {
              const menus = [...document.querySelectorAll('button[aria-haspopup=menu]')];
              const seen = menus.filter(b => b.getClientRects().length);
              const r = seen[0].getBoundingClientRect();
              return [r.x + r.width / 2, r.y + r.height / 2];
            })()"""
        )
        self.page.press(*place)
        self.page.click(entry, "[role=menuitem]")

    def artifact(self, artifact: Any) -> None:
        """Open an artifact's page."""
        self.page.size(WIDTH, HEIGHT)
        self.page.open(f"{self.pages}/artifacts/artifact/{artifact.id}")
        self.page.wait_text(artifact.key)
        time.sleep(2)


def finetuned(person: Photographer) -> None:
    """Fill in a form, submit it, watch it train, look at what came out."""
    person.form("finetune")
    person.picture("form", 1240)
    person.page.size(WIDTH, 2700)
    person.fill("Seed", "7")
    run = person.submit()
    wait_for_state(run, "RUNNING")
    live = wait_for_artifact(run, "progress-tickets", " steps  loss")
    time.sleep(20)
    person.artifact(live)
    person.picture("training", 980)
    person.run_page(run, "Artifacts")
    person.picture("run")
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")
    person.artifact(wait_for_artifact(run, "report-tickets", "Published"))
    person.picture("report", 1200)
    person.run_page(run, "Logs")
    person.page.size(WIDTH, 1700)
    person.picture("log", 1500)


def forms(person: Photographer) -> None:
    """Fill in the forms whose pictures no other step takes."""
    person.form("retrain")
    person.choose(RECIPES[0], RECIPES[1])
    person.picture("retrain-form", 900)
    person.form("evaluate")
    person.add("Models", "ticket-router@1", "ticket-router@2")
    person.picture("evaluate-form", 1000)
    person.form("interpolate")
    person.add("Checkpoints", "ticket-router@1", "ticket-router@2")
    person.fill("New folder", "merged")
    person.fill("Alpha", "0.5")
    person.picture("interpolate-form", 1300)


def retrained(person: Photographer) -> None:
    """Retrain, and approve what waits for a person."""
    person.form("retrain")
    person.choose(RECIPES[0], RECIPES[1])
    run = person.submit()
    wait_for_state(run, "PAUSED")
    approved(person, run)


def approved(person: Photographer, run: Any) -> None:
    """Say yes to a run that waits."""
    person.run_page(run, "Artifacts")
    person.menu("Resume")
    person.page.wait_text("Decision")
    person.picture("approval", 1900)
    person.choose("Select", "promote")
    person.fill("Your name", "Ann")
    person.fill("Reason", "good on the shifted rows")
    person.page.click("Resume", "[role=dialog] button")
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")


def measured(person: Photographer) -> None:
    """Measure two versions, and merge them."""
    person.form("evaluate")
    person.add("Models", "ticket-router@1", "ticket-router@2")
    run = person.submit()
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")
    person.artifact(artifacts(run)["evaluation-tickets"])
    person.picture("evaluation", 1200)


def merged(person: Photographer) -> None:
    """Merge two phases' ends."""
    work = person.project / "work" / "stages"
    tuned = sorted((work / "train").glob("*/artifact.json"), key=lambda path: path.stat().st_mtime)[-2:]
    person.form("interpolate")
    person.add("Checkpoints", *(str(path.parent.relative_to(person.project)) for path in tuned))
    person.fill("New folder", "merged")
    person.fill("Alpha", "0.5")
    run = person.submit()
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")
    person.artifact(next(iter(artifacts(run).values())))
    person.picture("interpolation", 1200)


def promoted(person: Photographer) -> None:
    """Ask in the form what a promotion would change."""
    person.form("promote")
    person.fill("Model", "ticket-router")
    person.fill("Version", "1")
    person.picture("promote", 1060)
    person.page.size(WIDTH, 2700)
    run = person.submit()
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")


def searched(person: Photographer) -> None:
    """Try a few rates from the form, and look at what mattered."""
    person.form("search")
    person.choose(RECIPES[0], RECIPES[2])
    person.picture("search-form", 1300)
    person.page.size(WIDTH, 2700)
    run = person.submit()
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")
    person.artifact(wait_for_artifact(run, "search-tickets-search"))
    person.picture("search", 1300)


def monitored(person: Photographer) -> None:
    """Let the version in place answer, and look at how it does."""
    version = write_log(person.project, "ticket-router")
    person.say(f"ticket-router@{version} has answered")
    person.form("monitor")
    person.choose(RECIPES[0], RECIPES[1])
    run = person.submit()
    ended = wait_for_state(run, "COMPLETED")
    person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")
    person.artifact(wait_for_artifact(run, "monitor-ticket-router"))
    person.picture("monitor", 1300)


def rolled_back(person: Photographer) -> None:
    """Promote the other version and go back: what a person does when an alarm comes."""
    for form in ("promote", "rollback"):
        person.form(form)
        person.fill("Model", "ticket-router")
        if form == "promote":
            person.fill("Version", "1")
        person.tick("Approve")
        if form == "rollback":
            person.picture(form, 1060)
        person.page.size(WIDTH, 2700)
        ended = wait_for_state(person.submit(), "COMPLETED")
        person.say(f"{ended.name}: {ended.state_name}, {ended.state.message}")


def side_by_side(person: Photographer) -> None:
    """Show all runs of the work place."""
    person.page.size(WIDTH, 2700)
    person.page.open(f"{person.pages}/artifacts/key/runs")
    person.page.wait_text("Runs of")
    person.picture("runs", 1100)


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    steps = (finetuned, retrained, measured, merged, promoted, searched, monitored, rolled_back, forms, side_by_side)
    names = [step.__name__ for step in steps]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="steps; most need those before them")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    for made in (folder, asked.out):
        made.mkdir(parents=True, exist_ok=True)
    with installation(folder) as pages, chromium(folder / "chromium") as page:
        person = Photographer(page, pages, folder / "project", asked.out.absolute())
        for step in steps:
            if step.__name__ in asked.only:
                step(person)


if __name__ == "__main__":
    main()
