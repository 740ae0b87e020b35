"""The pipeline against Prefect's own test server; the stages themselves are tested without Prefect."""

import base64
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from click.testing import CliRunner
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact, State
from prefect.testing.utilities import prefect_test_harness

from flows.command_line.main import main
from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.interpolate import interpolate
from flows.pages import finetune_form
from flows.pages import live_page as live
from flows.pages.live_page import LivePage, live_page
from flows.pages.run_page import show_markdown
from ftlib.errors import BusyError, DataError, Interrupted, ModelError, RecipeError, TransientError
from ftlib.fingerprint import Job
from ftlib.progress import Progress, emit, note
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.stages.step import Step
from ftlib.training import curves
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.workspace import Workspace, exclusive
from tasks.runner import STAGE, Runner

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def states_of(state: State) -> dict[str, str]:
    """The names of a flow run's task runs and of the states they ended in, as the server has them."""
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        this = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        before = -1
        while True:
            runs = client.read_task_runs(flow_run_filter=this, limit=200)
            # The server learns of task runs through events, a moment after the flow has ended.
            final = len(runs) == before and all(run.state and run.state.is_final() for run in runs)
            if final or time.monotonic() > deadline:
                return {run.name: run.state_name for run in runs}
            before = len(runs)
            time.sleep(1)


@pytest.fixture(scope="module")
def first(tiny_recipe: Path, work: Path) -> State:
    return finetune(str(tiny_recipe), work=str(work), return_state=True)


def test_a_pattern_of_the_interpolation_that_fits_nothing_is_found_before_training(
    first: State, tiny_recipe: Path, work: Path
) -> None:
    overrides = ['interpolation={kind: wise_ft, modules: {"classifer.*": 1.0}}', "phases.-1.optimizer.epochs=3"]
    state = finetune(str(tiny_recipe), overrides=overrides, work=str(work), return_state=True)
    with pytest.raises(ModelError, match=r"'classifer\.\*' fits none of .* near it: classifier"):
        state.result()
    assert not any(name.startswith("train") for name in states_of(state))


def test_a_run_ends_with_a_published_version_and_its_record(first: State, work: Path, tiny_recipe: Path):
    record = first.result()
    assert first.is_completed()
    assert isinstance(record.result, ModelVersion)
    assert (record.result.name, record.result.version, record.result.created) == ("tiny-router", 1, True)
    assert not any(step.done_before for step in record.steps)
    assert [step.stage for step in record.steps][:5] == [
        "ingest home", "ingest away", "preprocess home", "preprocess away", "base",
    ]  # fmt: skip
    written = json.loads((work / "runs" / "tiny" / "run.json").read_text())
    assert written["evidence"]["selection"]["chosen"]["name"] == record.evidence.selection.chosen.name
    assert written["versions"]["torch"]
    assert "<html" in (work / "runs" / "tiny" / "report.html").read_text().lower()


def name_of(state: State) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id).name


def test_a_run_is_named_for_what_was_asked_and_what_came_of_it(first: State, tiny_recipe: Path, work: Path):
    """Two of a recipe can be told apart, also by what a form's answers say; a URL's password is not in a name."""
    assert name_of(first) == "tiny · tiny-router@1"
    asked = ["phases.-1.optimizer.epochs=nine", "publish.description=see https://ann:hunter2@host/x", "publish.to=1"]
    state = finetune(
        str(tiny_recipe), training=finetune_form.Training(seed=7), overrides=asked, work=str(work), return_state=True
    )
    assert state.is_failed()
    assert name_of(state) == "tiny · seed=7 · epochs=nine · description=see https://***@host/x"


def test_the_run_page_shows_the_report_with_its_plots_and_its_outcome(first: State, work: Path):
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[first.state_details.flow_run_id]))
        )
    (report,) = [artifact for artifact in artifacts if artifact.key == "report-tiny"]
    (rows,) = [artifact for artifact in artifacts if artifact.key == "rows-tiny"]
    assert "| preprocess |" in str(rows.data)
    assert report.type == "markdown"
    assert "data:image/" in report.data
    assert "home" in report.data
    assert re.search(r"\*\*20\d\d-.* UTC: Published as tiny-router\\@1 in ", report.data[:200])
    assert re.search(
        r"<h1>.*</h1>\n<p class=\"verdict\"><strong>.*Published as tiny-router@1",
        (work / "runs" / "tiny" / "report.html").read_text(),
    )


def test_the_evaluate_flow_measures_the_version_as_its_run_did(first: State, tiny_recipe: Path, work: Path):
    record, registry = first.result(), str(tiny_recipe.parent / "registry")
    start = str(record.evidence.checkpoints[-1].path)
    state = evaluate(["tiny-router@1", start], str(tiny_recipe), registry=registry, work=str(work), return_state=True)
    said, chosen = state.result(), record.evidence.selection.chosen.name
    before = {
        cell.evaluation: cell.metrics for r in record.evidence.final for cell in r.measured if cell.candidate == chosen
    }
    for cell in said["measured"]:
        if cell["candidate"] == "tiny-router@1":
            assert cell["metrics"]["accuracy"] == before[cell["evaluation"]]["accuracy"].model_dump()
    (shown,) = [a for a in page(state.state_details.flow_run_id) if a.key == "evaluation-tiny"]
    assert state.message == shown.description
    assert state.message.startswith("Against tiny-router@1: ")
    assert "data:image/png;base64," in shown.data
    assert "| tiny-router@1 |" in shown.data.replace("\\", "")
    assert b"<html" in (work / "runs" / "tiny" / "evaluation.html").read_bytes()


def test_the_interpolate_flow_writes_what_the_command_does(first: State, tmp_path: Path):
    theta0, theta1 = (str(checkpoint.path) for checkpoint in first.result().evidence.checkpoints[-2:])
    state = interpolate([theta0, theta1], str(tmp_path / "mixed"), alpha=0.25, return_state=True)
    command = CliRunner().invoke(
        main, ["interpolate", theta0, theta1, "--alpha", "0.25", "--out", str(tmp_path / "too"), "--json"]
    )
    assert state.result()["weights"] == json.loads(command.stdout)["weights"]
    (shown,) = page(state.state_details.flow_run_id)
    assert (shown.key, shown.description) == ("interpolation-mixed", state.message)
    assert "data:image/png;base64," in shown.data
    assert "| head |" in shown.data
    with pytest.raises(RecipeError, match="method lerp: alpha: required"):
        interpolate([theta0, theta1], str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_second_run_finds_every_stage_done(first: State, tiny_recipe: Path, work: Path):
    state = finetune(str(tiny_recipe), work=str(work), return_state=True)
    record, before = state.result(), first.result()
    assert record.all_done_before()
    assert record.work_seconds == 0
    assert record.result.version == before.result.version
    assert not record.result.created
    states = states_of(state)
    assert set(states.pop(name) for name in list(states) if name != "register") == {"Cached"}
    assert states == {"register": "Completed"}  # the registry is asked, not the cache


def test_a_deleted_record_runs_its_stage_again_though_prefect_has_it_cached(
    first: State, tiny_recipe: Path, work: Path
):
    trained = first.result().evidence.checkpoints[-1]
    (trained.path / "artifact.json").unlink()
    record = finetune(str(tiny_recipe), work=str(work), return_state=True).result()
    again = {step.stage for step in record.steps if not step.done_before}
    assert again == {"train tune"}  # the same weights come out, so what follows is done
    assert record.evidence.checkpoints[-1].weights == trained.weights
    assert record.evidence.checkpoints[-1].path.is_dir()


def test_a_changed_phase_runs_itself_and_what_follows_only(first: State, tiny_recipe: Path, work: Path):
    overrides = ["phases.tune.optimizer.learning_rate=2e-3"]
    record = finetune(str(tiny_recipe), overrides=overrides, work=str(work), return_state=True).result()
    done = [step.stage for step in record.steps if step.done_before]
    assert done == ["ingest home", "ingest away", "preprocess home", "preprocess away", "base", "train probe"]


def test_a_gate_that_says_no_is_a_normal_end(tiny_recipe: Path, work: Path):
    overrides = ["select.gates=[{metric: home/accuracy, at_least: 1.1}]", "publish.name=never"]
    state = finetune(str(tiny_recipe), overrides=overrides, work=str(work), return_state=True)
    record = state.result()
    assert (state.is_completed(), state.name) == (True, "Refused")
    assert isinstance(record.result, Refusal)
    assert "home/accuracy" in state.message
    assert not list((tiny_recipe.parent / "registry").rglob("never"))


def test_a_stage_that_fails_fails_the_run_with_its_own_error(tiny_recipe: Path, work: Path):
    with pytest.raises(DataError, match="nope"):
        finetune(str(tiny_recipe), overrides=["datasets.home.format.label=nope"], work=str(work))


def test_the_same_run_twice_at_once_is_refused(tiny_recipe: Path, work: Path):
    lock = work / "runs" / "tiny.lock"
    with exclusive(lock, wait=False), pytest.raises(BusyError, match="tiny is already running"):
        finetune(str(tiny_recipe), work=str(work))


def page(run: UUID) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))


class Training(Job):
    """Stands for a training that goes on."""

    stage = "train"
    version = 1


def curves_in(markdown: object) -> str:
    """The page's picture of the curves."""
    (encoded,) = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", str(markdown))
    return base64.b64decode(encoded).decode()


def test_what_other_processes_train_is_on_the_page_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """The signs of life of Ray's workers come from the thread that follows their file."""
    work, job = Workspace(tmp_path / "work"), Training()
    folder = work.folder(job).with_suffix(".work")
    folder.mkdir(parents=True)
    monkeypatch.setenv("REGLAGE_TENSORBOARD_URL", "http://127.0.0.1:6006")

    @task(task_run_name="train tune")
    def training() -> None:
        with (
            curves.follow(RunPlace(str(folder)), "tune", 40, every_seconds=0.02),
            (folder / curves.FILE).open("w") as file,
        ):
            for step in range(1, 31):
                file.write(json.dumps({"step": step, "loss": 1.0 / step, "samples_per_second": 8.0}) + "\n")
                file.flush()
                time.sleep(0.03)
            file.write(json.dumps({"step": 30, "validation_loss": 0.5}) + "\n")

    @flow
    def run(*, trains: bool) -> None:
        with live_page("Tickets B", work) as shown:
            shown.begun(Step(training, job, "tune"))
            if trains:
                training.submit().wait()
                note("labels", "2 labels are rare")
                emit("evaluate home", 1, 2, "rows")
            shown.ended("Published as demo@1 in file:/r")

    with caplog.at_level(logging.INFO):
        state = run(trains=True, return_state=True)
    (shown,) = page(state.state_details.flow_run_id)
    assert (shown.key, shown.type) == ("progress-tickets-b", "markdown")
    assert shown.description == "Published as demo@1 in file:/r"
    assert "[TensorBoard](http://127.0.0.1:6006)" in str(shown.data)
    assert "- 2 labels are rare" in re.sub(r"! ", "", str(shown.data))
    drawn = curves_in(shown.data)
    assert len(drawn) < 20_000
    assert drawn.count("<circle") == 1
    assert drawn.count("tune · loss") == 1
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("train tune ")]
    assert 2 <= len(said) <= 12
    assert re.match(r"train tune (2[4-9]|30)/40 steps  loss 0.0\d+  samples/s 8", said[-1])
    assert all(line.endswith("left") for line in said[1:])
    assert not [r for r in caplog.records if r.getMessage() == "Finished in state Completed()" and r.name != "flow"]
    (again,) = page(run(trains=False, return_state=True).state_details.flow_run_id)
    axis = "".join(re.findall(r'stroke-width="[^"]*"', drawn))  # killed before it heard how long the training is
    assert "".join(re.findall(r'stroke-width="[^"]*"', curves_in(again.data))) == axis
    assert curves_in(again.data).count("<circle") == 1


def test_the_page_says_while_it_trains_how_far_it_is_and_when_it_ends(tmp_path: Path):
    page = LivePage("tickets", Workspace(tmp_path))
    page(Progress("ingest home", 1, 1, STAGE, {"seconds": 2.0, "rows_in": 9.0, "rows_kept": 8.0, "dropped empty": 1.0}))
    page(Progress("train tune", 10, 40, curves.STEPS, {"loss": 0.5}))
    time.sleep(0.2)
    page(Progress("train tune", 20, 40, curves.STEPS, {"samples_per_second": 3.0}))
    markdown, line = page.page(draw=True)
    assert re.fullmatch(r"train tune 20/40 steps  loss 0.5  samples/s 3  0 s left", line)
    assert "**50%** of train tune" in markdown
    assert "| ingest home | 2.0 s, 8 of 9 rows kept" in markdown
    page(Progress("train tune", 1, 1, STAGE, {"seconds": 3.0}))
    page(Progress("evaluate home validation", 5, 10, "rows", {}))
    assert page.page(draw=True)[1].startswith("evaluate home validation 5/10 rows")


def test_a_text_of_the_page_is_replaced_also_when_the_run_was_suspended_between():
    @flow
    def run() -> None:
        show_markdown("retrain-router", "waits", "Retraining of router")
        show_markdown("retrain-router", "promoted", "Retraining of router")

    first, second = (run(return_state=True).state_details.flow_run_id for _ in range(2))
    for this in (first, second):
        assert [artifact.data for artifact in page(this)] == ["promoted"]


def test_a_server_that_is_away_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def away(*_: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(live, "show_markdown", away)

    @task
    def training() -> int:
        emit("train tune", 1, 2, curves.STEPS, loss=1.0)
        return 7

    @flow
    def run() -> int:
        with live_page("tiny", Workspace(tmp_path)):
            return training()

    assert run() == 7


class Slow(Job):
    """Stands for a stage that does not end."""

    stage = "evaluate"
    version = 1


def test_a_stage_on_a_thread_ends_with_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ended: list[BaseException] = []

    @task(timeout_seconds=0.3)
    def slow(job: Job, work: Workspace) -> None:
        try:
            while True:
                emit("evaluate home", 1, 2, "rows")
                time.sleep(0.01)
        except Interrupted as error:
            ended.append(error)
            raise

    @flow
    def run() -> None:
        Runner(Workspace(tmp_path)).on_thread(slow, Slow(), "evaluate")

    with pytest.raises(TransientError, match=r"evaluate: still going on after 0\.3 s, which is its limit"):
        run()
    assert len(ended) == 1
    assert "worker thread" not in caplog.text
