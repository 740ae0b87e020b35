"""A run's entry in the index of runs: written when the run ends, however it ends."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from prefect.runtime import flow_run

from flows.challenge import Challenge
from flows.run_record import RunRecord
from ftlib.artifacts import Artifact
from ftlib.costs.prices import Prices, Usage, read_prices
from ftlib.costs.used import used
from ftlib.errors import Interrupted, OverBudget, ReglageError, first_line
from ftlib.progress import NOTE, Progress, listen, note
from ftlib.recipe.recipe import Recipe
from ftlib.registry.outcome import Refusal
from ftlib.stages.step import Step
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
    began: float = field(default_factory=monotonic)
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
        stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        state = "over budget" if isinstance(error, OverBudget) else "stopped" if stopped else "failed"
        try:
            self._keep(state=state, reason=first_line(error) if isinstance(error, Exception) else "on request")
        except (ReglageError, OSError) as second:
            with suppress(Exception):
                note("runs", f"the index of runs lacks this run: {first_line(second)}")

    def _keep(self, **fields: Any) -> RunFacts:
        stages, usage = times(self.run.steps), self.used()
        self.facts = keep(
            self.run.work,
            RunFacts(
                **asked(self.recipe),
                flow_run=str(flow_run.id or ""),
                when=datetime.now(UTC),
                stages=stages,
                wall_seconds=round(monotonic() - self.began, 3),
                usage=usage,
                cost=self.prices.of(usage) if self.prices else None,
                **fields,
            ),
        )
        return self.facts

    def used(self) -> Usage:
        """Return what the run's stages have used."""
        seconds = [(stage.stage, stage.seconds) for stage in times(self.run.steps)]
        stored = sum(_bytes(self.run, step.fingerprint) for step in self.run.steps if not step.done_before)
        return used(seconds, self.recipe.compute, os.cpu_count() or 1, card_name(self.recipe), stored)


def _bytes(run: Runner, fingerprint: str) -> int:
    """Return the bytes of what a stage made, as this machine has it."""
    folders = (run.work.root / "stages").glob(f"*/{fingerprint}")
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def card_name(recipe: Recipe) -> str:
    """Return the name of this machine's GPU, where the recipe asks for one and it is here; else an empty word."""
    if not recipe.compute.use_gpu:
        return ""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


@contextmanager
def entered(recipe: Recipe, run: Runner) -> Generator[RunEntry]:
    """Give the entry of a run whose work is done in the block; who holds the recipe's lock calls it.

    Raises RecipeError for a settings file of prices that cannot be read.
    """
    entry = RunEntry(recipe, run, read_prices())
    check_budget(recipe.compute.budget, entry.prices)
    budget = _budget(recipe, run, entry.prices)
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


def _budget(recipe: Recipe, run: Runner, prices: Prices | None) -> Budget | None:
    limit = recipe.compute.budget
    if limit is None or prices is None:
        return None
    earlier = [facts for facts in runs_of(run.work, recipe.name) if isinstance(facts, RunFacts)]
    card, cores = card_name(recipe), os.cpu_count() or 1
    return Budget(
        limit=limit,
        prices=prices,
        spent=spent_before(earlier, recipe_key(recipe), prices),
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
                predicted.update(_predicted(recipe, run))
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


def _predicted(recipe: Recipe, run: Runner) -> dict[str, float]:
    """Return the seconds that are predicted for each training by its label; none where nothing can be planned."""
    from flows.plan import make_plan

    try:
        return {f"train {phase.name}": phase.seconds for phase in make_plan(recipe, run.work).phases}
    except ReglageError as error:
        note("budget", f"what trainings will cost is not known: {first_line(error)}")
        return {"": 0.0}
