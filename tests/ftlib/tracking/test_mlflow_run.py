from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.command_line.main import main
from flows.pages.finetune_form import Tracking
from flows.run.tracked import tracked
from ftlib.costs.prices import Prices, Usage, money
from ftlib.errors import Interrupted, RecipeError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, EvalReport, Measured
from ftlib.evaluation.results import interval_text
from ftlib.progress import listen
from ftlib.recipe.file import load_recipe
from ftlib.registry.outcome import Refusal
from ftlib.stages.step import Step
from ftlib.storage.files import in_bytes
from ftlib.tracking.run_facts import RunFacts
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.curves import Curves
from ftlib.workspace import Workspace

RECIPE = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


class Job:
    stage, fingerprint = "train", "0123"


def train(run: Path, start: int, stop: int) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with Curves(RunPlace(str(run)), "tune", active=True) as curves:
        curves.rewind(start)
        for step in range(start + 1, stop + 1):
            curves.write(step=step, epoch=step / 4, loss=1 / step, samples_per_second=time.monotonic())
            if step % 4 == 0:
                curves.write(step=step, epoch=step / 4, validation_loss=2 / step)


def place(tmp_path: Path) -> Workspace:
    work = Workspace(tmp_path / "work")
    work.folder = lambda job: work.root / "stages" / "train" / "0123"  # type: ignore[method-assign]
    return work


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", "is a folder, which MLflow no longer writes to by itself; give sqlite:///mlflow.db or a server"),
        ("file:///tmp/mlruns", "or set MLFLOW_ALLOW_FILE_STORE=true"),
        ("https://me:secret@host", "give MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path, uri: str, message: str) -> None:
    with (
        pytest.raises(RecipeError) as raised,
        tracked(Tracking(mlflow=uri), load_recipe(RECIPE), place(tmp_path), lambda *_: None, lambda *_: None),
    ):
        raise AssertionError("it started")
    assert message in str(raised.value)
    assert "secret@" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("database", [True, False])
def test_a_run_and_its_resumption_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, database: bool
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/ml.db" if database else str(tmp_path / "mlruns")
    if not database:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    recipe, work, job = load_recipe(RECIPE), place(tmp_path), Job()
    run_folder, asked = work.root / "stages" / "train" / "0123.work", Step(main, job, "tune")  # type: ignore[arg-type]
    train(run_folder, 0, 2)

    def stopped() -> None:
        with tracked(Tracking(mlflow=uri), recipe, work, lambda *_: None, lambda *_: None) as run:
            run.begun(asked)
            train(run_folder, 2, 6)
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        stopped()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("reglage")
    (seen,) = client.search_runs([experiment.experiment_id])
    assert seen.info.status == "KILLED"
    metric = Estimate(value=0.5, low=0.4, high=0.6)
    cell = {"candidate": "alpha=0.2", "weights": "w", "alpha": 0.2, "evaluation": "home", "split": "validation"}
    report = Measured.model_validate({**cell, "rows": 4, "outcomes": "o", "metrics": {"accuracy": metric}})
    for _ in range(2):  # and once more, when all is done
        with tracked(Tracking(mlflow=uri), recipe, work, lambda *_: None, lambda *_: None) as run:
            run.begun(asked)
            train(run_folder, 4, 9)
            run.made(Step(main, None), EvalReport(measured=(report,)))
            run.made(Step(main, None), Refusal(reasons=("too low",)))
    (seen,) = client.search_runs([experiment.experiment_id])
    assert seen.info.status == "FINISHED"
    history = {name: client.get_metric_history(seen.info.run_id, name) for name in seen.data.metrics}
    assert sorted((m.step, m.value) for m in history["tune/loss"]) == [(s, pytest.approx(1 / s)) for s in range(1, 10)]
    assert sorted(m.step for m in history["tune/validation_loss"]) == [4, 8]
    assert [(m.step, m.value) for m in history["validation/home/accuracy/alpha_0.2"]] == [(0, 0.5)]
    assert seen.data.params["phases.tune.optimizer.learning_rate"] == "0.0001"
    assert seen.data.params["name"] == "quickstart"
    assert seen.data.tags["reglage.training.tune"] == "0123"
    assert seen.data.tags["reglage.version"] == "refused: too low"
    other = load_recipe(RECIPE, ["seed=7"])
    with tracked(Tracking(mlflow=uri), other, work, lambda *_: None, lambda *_: None) as run:
        run.begun(asked)
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, silent: bool
) -> None:
    monkeypatch.setattr("ftlib.tracking.follower._END_SECONDS", 3.0)
    recipe, work, said, job = load_recipe(RECIPE), place(tmp_path), list[str](), Job()
    train(work.root / "stages" / "train" / "0123.work", 0, 3)
    asked: Any = Step(main, job, "tune")  # type: ignore[arg-type]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()  # takes the connection, and never says anything
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        with (
            listen(lambda sign: said.append(sign.text)),
            tracked(Tracking(mlflow=uri), recipe, work, lambda *_: None, lambda *_: None) as run,
        ):
            run.begun(asked)  # that this ends at all is the point: the server never says a word
            time.sleep(2.5)
    assert len([text for text in said if "does not answer" in text or "the run goes on" in text]) >= 1
    assert len([text for text in said if "the run goes on" in text]) <= 1


@pytest.mark.slow
def test_mlflow_says_what_the_pages_of_a_run_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from flows.pages.runs_shown import cost_markdown, runs_markdown

    monkeypatch.setattr("ftlib.tracking.follower._END_SECONDS", 200.0)  # a new database takes a while
    uri, recipe, work, job = f"sqlite:///{tmp_path}/ml.db", load_recipe(RECIPE), place(tmp_path), Job()
    train(work.root / "stages" / "train" / "0123.work", 0, 2)
    cell = {"candidate": "alpha=0.2", "weights": "w", "alpha": 0.2, "split": "test", "rows": 4, "outcomes": "o"}
    usage = Usage(core_hours=0.5)
    facts = RunFacts(
        recipe=recipe.name,
        number=3,
        state="waits for approval",
        version="quickstart@2",
        when=datetime.now(UTC),
        cells={
            name: Measured.model_validate({**cell, "evaluation": name, "metrics": {"accuracy": metric}})
            for name, metric in (
                ("home", Estimate(value=0.5, low=0.4, high=0.625)),
                ("old", Estimate(value=0.25, low=None, high=None)),
            )
        },
        evaluations={name: Evaluation(dataset=name, metrics=({"kind": "accuracy"},)) for name in ("home", "old")},  # type: ignore[arg-type]
        usage=usage,
        cost=Prices(currency="EUR", cpu_core_hour=2.0).of(usage),
        memory_bytes=1000,
        predicted_memory_bytes=1100,
    )
    with tracked(Tracking(mlflow=uri), recipe, work, lambda *_: None, lambda *_: None) as run:
        run.begun(Step(main, job, "tune"))  # type: ignore[arg-type]
        run.entered(facts)
    settled = facts.model_copy(update={"state": "promoted"})
    run.entered(settled)  # after a person's answer

    client = MlflowClient(tracking_uri=uri)
    (seen,) = client.search_runs([client.get_experiment_by_name("reglage").experiment_id])
    told, metrics = seen.data.tags, seen.data.metrics
    assert seen.info.status == "FINISHED"
    page = runs_markdown([settled], 1, tmp_path / "runs.html", work).replace("\\", "")
    for name in ("home", "old"):
        ends = {end: metrics.get(f"final/{name}/accuracy{end}") for end in ("", ".low", ".high")}
        there = Estimate(value=ends[""], low=ends[".low"], high=ends[".high"])
        assert f"| {interval_text(there)} |" in page
    assert f"| {told['reglage.name']} | {told['reglage.state']} |" in page
    assert told["reglage.alias"] == recipe.retrain.alias
    assert f"{money(metrics['run/cost'])} EUR" in page
    assert f"{in_bytes(int(metrics['run/memory_bytes']))} (predicted " in page
    assert cost_markdown(settled, 5.0, 0.25).startswith(f"# {told['reglage.name']}: {told['reglage.cost']}")
    assert "Budget: 1.25 of 5 EUR are spent, 0.25 of that by earlier attempts." in cost_markdown(settled, 5.0, 0.25)
