"""How a search ends: the soup, the winner on the test rows and in the registry, the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from flows.pages.run_page import artifact_key, inlined, show_markdown
from flows.run.record import RunRecord, installed_versions, remember
from flows.run.steps import find_best, inputs, prepare, shown, steps
from flows.run.values import Inputs
from flows.searching.process import measured_value, trial_steps
from flows.searching.recipes import Searched, best_first, ingredients, soup_of
from ftlib.artifacts import Artifact
from ftlib.data.listed import FileVersion
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.measured import EvalReport
from ftlib.evaluation.results import results
from ftlib.progress import note
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.measured_page import write_page
from ftlib.report.report import Report
from ftlib.report.search_page import search_page
from ftlib.search.importance import importances
from ftlib.search.record import SearchRecord, SoupFacts
from ftlib.search.trial import Trial
from ftlib.stages.step import Step, Steps
from ftlib.workspace import Workspace, overwrite
from tasks.runner import Runner, StageRun

Files = Mapping[str, tuple[FileVersion, ...]]


class _End(NamedTuple):
    evidence: Evidence
    report: Report
    result: ModelVersion | Refusal | None


def finished(asked: Searched, tried: Sequence[Trial], run: Runner, files: Files, *, publish: bool) -> SearchRecord:
    """Measure the winner on the test rows, publish it if that is asked, and say what the search came to."""
    ranked = best_first(tried, maximize=asked.maximize)
    best = ranked[0]
    soup, more = _soup(asked, ranked, run, files)
    recipe = asked.of(best.values, more)
    given = inputs(recipe, run.work, files)
    note("search", f"trial {best.number} is the best; it is measured on the test rows")
    end = _ended(recipe, given, run, publish=publish)
    everything = [
        StageRun(stage=used.stage, fingerprint=used.fingerprint, done_before=True, seconds=0.0, work_seconds=0.0)
        for trial in tried
        for used in trial.outcome.steps
    ]
    if end.result is not None:
        RunRecord(
            evidence=end.evidence,
            steps=tuple(run.steps),
            report=end.report,
            result=end.result,
            versions=installed_versions(),
        ).write(run.work)
    remember(run.work, recipe.name, [*run.steps, *everything])
    return SearchRecord(
        recipe=recipe.name,
        metric=asked.metric,
        higher_is_better=asked.maximize,
        search=asked.search,
        trials=tuple(tried),
        best=best.number,
        overrides=(*asked.overrides, *asked.overrides_of(best.values), *more),
        soup=soup,
        importance=importances(asked.search, tried, maximize=asked.maximize),
        confidence=recipe.evaluations[asked.metric.partition("/")[0]].confidence,
        results=tuple(results(end.evidence.final, end.evidence.selection, recipe.evaluations)),
        result=end.result,
    )


def _ended(recipe: Recipe, given: Inputs, run: Runner, *, publish: bool) -> _End:
    if publish:
        return _End(*run.through(lambda: steps(recipe, run.work, given)))
    return run.through(lambda: _measured(recipe, run.work, given))


def _measured(r: Recipe, work: Workspace, given: Inputs) -> Steps[_End | None]:
    """Yield a run without its publication."""
    data = yield from prepare(r, given)
    evidence = yield from find_best(r, work, data, given.model)
    page = yield from shown(evidence)
    return _End(evidence, page, None) if evidence and page else None


def _soup(
    asked: Searched, ranked: Sequence[Trial], run: Runner, files: Files
) -> tuple[SoupFacts | None, Sequence[str]]:
    """Offer the best trials' ends to a greedy soup; return the overrides that make it, if it is better."""
    if asked.search.soup < 2:
        return None, ()
    chosen = ingredients(ranked, asked.search.soup)
    numbers = tuple(trial.number for trial in chosen)
    if len(chosen) < 2:
        return SoupFacts(trials=numbers, why_not="no other trial's last phase starts where the best one's does"), ()
    reports: list[EvalReport] = []

    def made(_: Step, artifact: Artifact) -> None:
        if isinstance(artifact, EvalReport):
            reports.append(artifact)

    more = soup_of(chosen)
    try:
        recipe = asked.of(ranked[0].values, more)
        given = inputs(recipe, run.work, files)
        souping = run.about("soup")
        souping.made = made
        selection = souping.through(lambda: trial_steps(recipe, run.work, given))
    except (RecipeError, ModelError) as error:
        return SoupFacts(trials=numbers, why_not=" ".join(str(error).split())), ()
    value = measured_value(recipe, asked.metric, reports, selection)
    better = value.value is not None and _gain(asked, value.value, ranked[0]) > 0
    facts = SoupFacts(trials=numbers, candidate=selection.chosen.name, value=value, taken=better)
    return facts, more if better else ()


def _gain(asked: Searched, value: float, best: Trial) -> float:
    gain = value - (best.measured or 0.0)
    return gain if asked.maximize else -gain


def show_search(record: SearchRecord, command: str, work: Workspace) -> str:
    """Put the page on the run and into the recipe's folder of runs; return its verdict."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        page = search_page(record, command, folder)
        text = inlined(write_page(page, folder))
        overwrite(work, f"runs/{record.recipe}/search.html", (folder / "report.html").read_bytes())
    overwrite(work, f"runs/{record.recipe}/search.json", record.model_dump_json(indent=1).encode())
    show_markdown(artifact_key("search", record.recipe), text, page.verdict)
    return page.verdict
