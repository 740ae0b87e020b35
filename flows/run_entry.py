"""A run's entry in the index of runs: written when the run ends, however it ends."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from prefect.runtime import flow_run

from flows.pages.runs_shown import show_cost, show_runs
from flows.planning.facts import PhasePlan
from flows.planning.plan import make_plan
from flows.retraining.challenge import Challenge
from flows.run.record import RunRecord
from ftlib.artifacts import Artifact
from ftlib.costs.prices import Prices, Usage, read_prices
from ftlib.costs.used import card_name, used
from ftlib.errors import Interrupted, OverBudget, ReglageError, first_line, is_on_request
from ftlib.progress import NOTE, Progress, listen, note
from ftlib.recipe.recipe import Recipe
from ftlib.registry.outcome import Refusal
from ftlib.stages.step import Step
from ftlib.storage.patience import requests_sent
from ftlib.tracking.budget import Budget, check_budget, spent_before
from ftlib.tracking.run_facts import RunFacts, asked, found, recipe_key, times
from ftlib.tracking.run_index import keep, runs_of
from tasks.runner import STAGE, Runner


@dataclass
class RunEntry:
    """One run, as the index will have it."""

    recipe: Recipe
    run: Runner
    prices: Prices | None
    earlier: RunFacts | None = None
    """What an earlier attempt of the same flow run left: it waited for approval, or was tried again."""
    before: float = 0.0
    """What earlier flow runs of the same recipe cost that led to no end."""
    began: float = field(default_factory=monotonic)
    sent: int = field(default_factory=requests_sent)
    """Requests to buckets that this process had sent when the run began."""
    facts: RunFacts | None = None
    """What was written."""

    def ended(self, record: RunRecord) -> RunFacts:
        """Write how a run ended that came to its end."""
        refused = isinstance(record.result, Refusal)
        return self._keep(
            state="refused" if refused else "published",
            reason="; ".join(record.result.reasons) if isinstance(record.result, Refusal) else "",
            version="" if isinstance(record.result, Refusal) else f"{record.result.name}@{record.result.version}",
            **found(record.evidence),
        )

    def judged(self, judged: Challenge) -> RunFacts:
        """Write what a retraining came to; a later word on the same one is written over this."""
        version = f"{judged.version.name}@{judged.version.version}" if judged.version else ""
        of_evidence = found(judged.evidence) if judged.evidence else {}
        return self._keep(state=judged.title.lower(), reason="; ".join(judged.reasons), version=version, **of_evidence)

    def failed(self, error: BaseException) -> None:
        """Write how a run ended that did not come to its end; what keeps it from that is said and no error of its own.

        The run ends with the error that it has.
        """
        state = "over budget" if isinstance(error, OverBudget) else "stopped" if is_on_request(error) else "failed"
        try:
            self._keep(state=state, reason=first_line(error) if isinstance(error, Exception) else "on request")
        except (ReglageError, OSError) as second:
            with suppress(Exception):
                note("runs", f"the index of runs lacks this run: {first_line(second)}")

    def _keep(self, **fields: Any) -> RunFacts:
        facts = RunFacts(
            **asked(self.recipe),
            flow_run=str(flow_run.id or ""),
            when=datetime.now(UTC),
            stages=times(self.run.steps),
            wall_seconds=round(monotonic() - self.began, 3),
            usage=self.used(),
            **fields,
        )
        facts = facts.on_top_of(self.earlier) if self.earlier else facts
        cost = self.prices.of(facts.usage) if self.prices else None
        self.facts = keep(self.run.work, facts.model_copy(update={"cost": cost}))
        self._show(self.facts)
        return self.facts

    def _show(self, facts: RunFacts) -> None:
        """Say it on Prefect's pages and to trackers; what keeps that from being said is no error of the run's."""
        self.run.entered(facts)
        if facts.state == "stopped":  # who stops a run does not wait for pages
            return
        try:
            show_cost(facts, self.recipe.compute.budget, self.before)
            show_runs(self.run.work)
        except Exception as error:
            note("runs", f"the page of runs lacks this one: {first_line(error)}")

    def used(self) -> Usage:
        """Return what the run's stages have used."""
        seconds = [(stage.stage, stage.seconds) for stage in times(self.run.steps)]
        stored = sum(_bytes(self.run, step.fingerprint) for step in self.run.steps if not step.done_before)
        requests = requests_sent() - self.sent
        return used(seconds, self.recipe.compute, os.cpu_count() or 1, card_name(self.recipe.compute), stored, requests)


def _bytes(run: Runner, fingerprint: str) -> int:
    """Return the bytes of what a stage made, as this machine has it."""
    folders = (run.work.root / "stages").glob(f"*/{fingerprint}")
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


@contextmanager
def entered(recipe: Recipe, run: Runner) -> Generator[RunEntry]:
    """Give the entry of a run whose work is done in the block; who holds the recipe's lock calls it.

    Raises RecipeError for a settings file of prices that cannot be read.
    """
    prices = read_prices()
    check_budget(recipe.compute, prices)
    runs = [facts for facts in runs_of(run.work, recipe.name) if isinstance(facts, RunFacts)]
    this = str(flow_run.id or "")
    earlier = next((facts for facts in runs if this and facts.flow_run == this), None)
    others = [facts for facts in runs if facts is not earlier]
    entry = RunEntry(recipe, run, prices, earlier)
    if prices is not None:
        entry.before = spent_before(others, recipe_key(recipe), prices)
    budget = _budget(entry)
    try:
        with _watched(budget, recipe, run):
            yield entry
    except Interrupted as error:
        # A training that was asked to stop saves its step, and says so by a word of its own.
        over = OverBudget(budget.over) if budget and budget.over else error
        entry.failed(over)
        raise over from (None if over is error else error)
    except BaseException as error:
        entry.failed(error)
        raise


def _budget(entry: RunEntry) -> Budget | None:
    recipe, prices = entry.recipe, entry.prices
    if recipe.compute.budget is None or prices is None:
        return None
    card, cores = card_name(recipe.compute), os.cpu_count() or 1
    own = prices.of(entry.earlier.usage).total if entry.earlier else 0.0
    return Budget(
        limit=recipe.compute.budget,
        prices=prices,
        spent=entry.before + own,
        rate=lambda stage: used([(stage, 3600.0)], recipe.compute, cores, card),
    )


@contextmanager
def _watched(budget: Budget | None, recipe: Recipe, run: Runner) -> Generator[None]:
    """Let a budget look before each stage that is still to do, and at signs of life."""
    if budget is None:
        yield
        return
    begun, made, predicted = run.begun, run.made, dict[str, float]()

    def begins(step: Step) -> None:
        budget.end()
        if step.job is not None and not run.work.has(step.job):
            if step.job.stage == "train" and not predicted:
                predicted.update({"": 0.0} | {f"train {phase.name}": phase.seconds for phase in _phases(recipe, run)})
            budget.begin(step.label, predicted.get(step.label, 0.0))
        begun(step)

    def ends(step: Step, artifact: Artifact) -> None:
        budget.end()
        made(step, artifact)

    def look(sign: Progress) -> None:
        if sign.unit not in (NOTE, STAGE):  # those are no stage's own
            budget.look()

    run.begun, run.made = begins, ends
    with listen(look):
        yield


def _phases(recipe: Recipe, run: Runner) -> Sequence[PhasePlan]:
    """Return what is planned of each training; none where nothing can be planned."""
    try:
        return make_plan(recipe, run.work).phases
    except Exception as error:  # a run that came to its end is not lost for what was predicted of it
        note("runs", f"what trainings will take is not known: {first_line(error)}")
        return ()
