"""The one generator of steps, driven alone: a run and a plan of it come by the same jobs in the same order.

No stage works here: a stage's artifact is made up from its job, so that whole runs of many recipes take no time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml

from flows.planning import plan
from flows.run import candidate_steps, models_beside
from flows.run import steps as steps_module
from flows.run.steps import pinned, steps
from flows.run.values import Inputs, Outcome
from ftlib.artifacts import Artifact
from ftlib.config import BatchKind, Config
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset, SplitFacts
from ftlib.evaluation.measured import EvalReport, KLToStart
from ftlib.evaluation.selection import Selection
from ftlib.fingerprint import Job
from ftlib.merging.candidates import Candidates
from ftlib.merging.interpolation.ends import Ends, Score
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import Base, Checkpoint
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry.outcome import ModelVersion
from ftlib.report.report import Report
from ftlib.stages.base import BaseJob
from ftlib.stages.diverge import DivergeJob
from ftlib.stages.evaluate import EvaluateJob
from ftlib.stages.fisher import FisherJob
from ftlib.stages.ingest import IngestJob
from ftlib.stages.interpolate import InterpolateJob
from ftlib.stages.preprocess import PreprocessJob
from ftlib.stages.prune import PruneJob
from ftlib.stages.register import RegisterJob
from ftlib.stages.report import ReportJob
from ftlib.stages.score import ScoreJob
from ftlib.stages.select import SelectJob
from ftlib.stages.step import Step, walk
from ftlib.stages.train import TrainJob
from ftlib.testing import LABELS, tiny_recipe
from ftlib.training.fisher.record import Fisher
from ftlib.training.phase import Companion
from ftlib.workspace import Workspace
from tasks import runner
from tasks.runner import Runner

# No union knows the objective below, so pydantic doubts what it writes.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
Asked = tuple[str, str | None]
"""What a step is called, and its job's fingerprint."""


def made_up(job: Job) -> Artifact:
    """Return what the job's stage might have made: other jobs, other digests."""
    digest, ledger = job.fingerprint, Ledger(rows_in=30, kept=30)
    match job:
        case IngestJob():
            return RawDataset(content=digest, columns=("text", "label"), files=(), ledger=ledger)
        case PreprocessJob():
            facts = SplitFacts(
                rows=30, tokens=300, supervised=30, truncated=0, longest=12, labels=dict.fromkeys(LABELS, 10)
            )
            return PreparedDataset(
                content=digest,
                kind=job.dataset.format.yields,
                labels=LABELS,
                splits={"train": facts, "validation": facts, "test": facts},
                ledger=ledger,
                leaked=0,
                tokenizer=job.tokenizer,
            )
        case ScoreJob():
            return job.data.model_copy(update={"content": digest})
        case BaseJob():
            return checkpoint(digest, None, job.model.tokenizer, "base", "dense", job.labels)
        case PruneJob():
            start = job.start
            return checkpoint(digest, start.weights, start.tokenizer, "prune", start.form, start.labels)
        case TrainJob():
            form = job.phase.tuning.leaves or job.start.form
            return checkpoint(digest, job.start.weights, job.start.tokenizer, job.phase.name, form, job.start.labels)
        case FisherJob():
            return Fisher(content=digest, weights=job.start.weights, datasets=job.names, rows=30, trace=1.0)
        case InterpolateJob():
            scores = {score.weights: score for score in job.scores}
            return Candidates(members=job.interpolation.points(Ends(job.start, job.end, job.siblings, scores=scores)))
        case EvaluateJob():
            return EvalReport(measured=())
        case DivergeJob():
            return KLToStart(evaluation=job.name, moved=(), fingerprint=digest)
        case SelectJob():
            return Selection(chosen=job.candidates.members[len(job.candidates.members) // 2], rule="", why="")
        case ReportJob():
            return Report(html="", markdown="", plots=(), fingerprint=digest)
        case RegisterJob():
            return ModelVersion(name="tiny", version=1, registry="", manifest=digest, logit_difference=0, created=True)
        case _:
            raise AssertionError(f"nobody makes {job.stage} up")


def checkpoint(
    weights: str, parent: str | None, tokenizer: str, phase: str, form: Any, labels: tuple[str, ...]
) -> Checkpoint:
    return Checkpoint(
        weights=weights,
        parent=parent,
        tokenizer=tokenizer,
        phase=phase,
        fresh_head=parent is None,
        labels=labels,
        parameters=1,
        trained_parameters=1,
        form=form,
        base=Base(name="base", weights="base") if form == "adapter" else None,
    )


class Scored(Config):
    kind: Literal["scored"] = "scored"
    needs: ClassVar[BatchKind] = "labeled"
    companions: ClassVar[tuple[str, ...]] = ("teacher",)
    scores: ClassVar[tuple[str, ...]] = ("first", "second")


def scored(recipe: Recipe) -> Recipe:
    beside = {
        "objective": Scored(),
        "companions": {"teacher": Companion(phase="warm")},
        "scores": {"first": Companion(phase="base"), "second": Companion(phase="probe")},
    }
    *before, last = recipe.phases
    return recipe.model_copy(update={"phases": (*before, last.model_copy(update=beside))})


def as_is(recipe: Recipe) -> Recipe:
    return recipe


HEAD = {"name": "probe", "dataset": "home", "objective": {"kind": "classification"}, "tuning": {"kind": "linear_probe"}}
MIXED = {
    "name": "tune",
    "mixture": {"home": 1, "away": 3},
    "objective": {"kind": "classification"},
    "tuning": {"kind": "full"},
    "penalty": {"kind": "l2_sp"},
}
LORA = {**HEAD, "name": "tune", "tuning": {"kind": "lora", "rank": 2, "keep": "adapter"}}
WARM = {**HEAD, "name": "warm", "tuning": {"kind": "full"}}
KEPT = {"kind": "ewc", "datasets": ["home", "away"], "rows": 9}
BUDGET = {"rule": "within", "by": "away/accuracy", "divergence": "home/kl_to_start", "at_most": 0.1}
ON_RAY = {"workers": 2, "evaluation_workers": 2, "threads": 1}
RECIPES: dict[str, tuple[dict[str, Any], Callable[[Recipe], Recipe]]] = {
    "as it is": ({}, as_is),
    "three phases and a mixture": ({"phases": [HEAD, WARM, MIXED]}, as_is),
    "scorers": ({"phases": [HEAD, WARM, MIXED], "interpolation": {"kind": "soup", "seeds": [5]}}, scored),
    "adapters": (
        {"phases": [HEAD, {**LORA, "name": "first"}, LORA], "interpolation": {"kind": "soup", "seeds": [5, 6]}},
        as_is,
    ),
    "one adapter": ({"phases": [HEAD, LORA]}, as_is),
    "pruned": ({"phases": [HEAD, WARM], "prune": {"dataset": "home", "layers": 1}}, as_is),
    "kept rows": (
        {"phases": [HEAD, {**WARM, "penalty": KEPT}], "interpolation": {"kind": "soup", "seeds": [5]}},
        as_is,
    ),
    "no interpolation": ({"phases": [WARM], "interpolation": {"kind": "off"}}, as_is),
    "on Ray": ({"phases": [HEAD, WARM, MIXED], "compute": ON_RAY}, scored),
    "a search": ({"interpolation": {"kind": "wise_ft", "alphas": [0, 0.5, 1], "refine": 3}}, as_is),
    "a budget": ({"select": BUDGET}, as_is),
    "a greedy soup": ({"interpolation": {"kind": "soup", "order": "greedy", "seeds": [5, 6]}}, as_is),
}


class Recording(Runner):
    """Runs a flow's steps as the flow does, but for Prefect and the stages' work."""

    asked: list[Asked]

    def here(self, task: Any, job: Job, label: str) -> Any:
        self.asked.append((label, job.fingerprint))
        return made_up(job)

    def on_thread(self, task: Any, job: Job, label: str, meanwhile: Any = None) -> Any:
        if meanwhile:
            meanwhile()
        return self.here(task, job, label)


class NoRay:
    def __init__(self, compute: Any) -> None:
        self.started = 0

    def __enter__(self) -> "NoRay":
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    def scores(members: Any, *_: object) -> tuple[Score, ...]:
        digests = sorted(one.digest() for one in members)
        return tuple(Score(weights=digest, value=int(digest[:8], 16), error=0.1) for digest in digests)

    monkeypatch.setattr(candidate_steps, "scores_so_far", scores)
    monkeypatch.setattr(runner, "RayWhenNeeded", NoRay)
    changes, change = RECIPES[request.param]
    path = tiny.with_name("changed.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(tiny.read_text()), **changes}, sort_keys=False))
    return change(load_recipe(path, ["datasets.away.split.validation=0.2", "datasets.away.split.test=0.2"]))


def given(recipe: Recipe, work: Workspace) -> Inputs:
    model = find_any(recipe.model)
    return Inputs(model, pinned(recipe, work), companions=models_beside.found_companions(recipe, work, model))


def run(recipe: Recipe, work: Workspace, inputs: Inputs) -> tuple[list[Asked], Outcome]:
    """Walk the steps as `finetune` does, with everything made up."""
    recording = Recording(work, recipe.compute)
    recording.asked = []
    outcome = recording.through(lambda: steps(recipe, work, inputs))
    return recording.asked, outcome


def planned(recipe: Recipe, work: Workspace, inputs: Inputs, known: set[str]) -> list[Asked]:
    """Look the steps up as `plan` does, where only the jobs in `known` are done."""
    asked: list[Asked] = []

    class Looking(plan.Planner):
        def _made(self, step: Step) -> Artifact | None:
            asked.append((step.label, step.job and step.job.fingerprint))
            return made_up(step.job) if step.job and step.job.fingerprint in known else None

    walk(steps(recipe, work, inputs), Looking(work, prepare=False).look)
    return asked


def test_a_plan_looks_up_what_a_run_does_in_its_order_however_far_it_came(recipe: Recipe, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    inputs = given(recipe, work)
    ran, outcome = run(recipe, work, inputs)
    assert ran == run(recipe, work, inputs)[0]
    assert planned(recipe, work, inputs, {fingerprint for _, fingerprint in ran if fingerprint}) == ran
    assert (outcome.evidence.recipe, outcome.result.digest()) == (recipe, ran[-1][1])
    for done in range(len(ran)):
        known = {fingerprint for _, fingerprint in ran[:done] if fingerprint}
        looked = planned(recipe, work, inputs, known)
        if not recipe.interpolation.adaptive:  # a search asks again for what only its measurements name
            assert [label for label, _ in looked] == [label for label, _ in ran]
        again = dict(ran)
        assert all(job in (None, again[label]) for label, job in looked if label.split()[0] not in SEARCHED)
        assert looked[: done + 1] == ran[: done + 1]


SEARCHED = ("interpolate", "evaluate")
"""What a search asks several times, each time another job."""


@pytest.mark.parametrize("recipe", ["scorers"], indirect=True)
def test_the_order_is_the_one_that_the_recipe_says(recipe: Recipe, tmp_path: Path) -> None:
    scorings = [f"score {part} by {name} for tune" for name in ("first", "second") for part in ("away", "home")]
    work = Workspace(tmp_path)
    assert [label for label, _ in run(recipe, work, given(recipe, work))[0]] == [
        *("ingest home", "ingest away", "preprocess home", "preprocess away", "base"),
        *("train probe", "train warm", *scorings, "train tune", *scorings, "train tune-seed5"),
        *("interpolate", "evaluate home validation", "evaluate away validation", "select"),
        *("evaluate home test", "evaluate away test", "report", "register"),
    ]


@pytest.mark.parametrize("recipe", ["a budget"], indirect=True)
def test_how_far_candidates_moved_is_measured_before_the_choice(recipe: Recipe, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    labels = [label for label, _ in run(recipe, work, given(recipe, work))[0]]
    assert labels[-7:-4] == ["evaluate away validation", "diverge", "select"]


@pytest.mark.parametrize("recipe", ["kept rows"], indirect=True)
def test_what_earlier_rows_need_is_measured_where_the_phase_starts(recipe: Recipe, tmp_path: Path) -> None:
    seen: dict[str, Job] = {}

    def answer(step: Step) -> Artifact:
        assert step.job
        seen[step.label] = step.job
        return made_up(step.job)

    work = Workspace(tmp_path)
    walk(steps(recipe, work, given(recipe, work)), answer)
    assert [*seen][5:8] == ["train probe", "fisher for warm", "train warm"]
    measuring, training = seen["fisher for warm"], seen["train warm"]
    assert isinstance(measuring, FisherJob)
    assert isinstance(training, TrainJob)
    assert (measuring.start.phase, measuring.names, measuring.rows) == ("probe", ("away", "home"), 9)
    assert training.fisher is not None
    assert training.fisher.digest() == measuring.fingerprint
    again = seen["fisher for warm-seed5"]
    assert again.fingerprint == measuring.fingerprint  # at the same weights: it is found, not made again


@pytest.mark.parametrize("recipe", ["scorers"], indirect=True)
def test_every_phase_starts_where_the_one_before_ended_and_sees_its_scores(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[Job] = []

    def answer(step: Step) -> Artifact:
        assert step.job
        seen.append(step.job)
        return made_up(step.job)

    work = Workspace(tmp_path)
    walk(steps(recipe, work, given(recipe, work)), answer)
    trained = [job for job in seen if isinstance(job, TrainJob)]
    scorings = [job for job in seen if isinstance(job, ScoreJob)]
    ends = [made_up(job) for job in trained]
    assert [job.start.phase for job in trained] == ["base", "probe", "warm", "warm"]
    assert [job.seed for job in trained] == [0, 0, 0, 5]
    assert trained[2].companions["teacher"].digest() == ends[1].digest()
    assert [job.model.digest() for job in scorings[:4]] == [
        *[trained[0].start.digest()] * 2,
        *[ends[0].digest()] * 2,
    ]
    # Both columns of a part: the second is computed on what the first has left.
    assert scorings[2].data.digest() == scorings[0].fingerprint
    assert [part.digest() for part in trained[2].parts] == [scorings[2].fingerprint, scorings[3].fingerprint]


def test_nobody_else_says_which_stage_comes_next() -> None:
    """`steps` and its two parts; `measuring` yields those of a finished model, neither trained nor published."""
    flows = Path(steps_module.__file__).parent
    yielding = {
        file.name
        for file in flows.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith("from ftlib.stages.step import")
        and "step" in line.split("import")[1].split(", ")[-1].split()
    }
    assert yielding == {"steps.py", "phase_steps.py", "candidate_steps.py", "measuring.py"}
