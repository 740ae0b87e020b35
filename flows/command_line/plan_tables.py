"""How a plan is printed, and what it would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.command_line.console import stdout_console
from flows.planning.facts import PhasePlan, RunPlan, ScoringPlan
from ftlib.costs.prices import Cost, Prices
from ftlib.costs.used import card_name, priced_name, used
from ftlib.recipe.recipe import Recipe
from ftlib.storage.files import in_bytes
from ftlib.training.memory.cards import find_card

if TYPE_CHECKING:
    from rich.table import Table


def cost_of(plan: RunPlan, recipe: Recipe, prices: Prices | None, cores: int, card: str | None = None) -> Cost | None:
    """Return what the rest of a run will cost; None where there are no prices, or the data is not prepared.

    What is no training is reckoned as evaluation. With a card workers have it, whatever the recipe says.
    """
    if prices is None or plan.seconds is None:
        return None
    trainings = [(f"train {phase.name}", phase.seconds) for phase in plan.phases]
    rest = max(0.0, plan.seconds - sum(seconds for _, seconds in trainings))
    compute = recipe.compute if card is None else recipe.compute.model_copy(update={"use_gpu": True})
    name = card_name(compute) if card is None else priced_name(find_card(card), prices)
    return prices.of(used([*trainings, ("evaluate", rest)], compute, cores, name))


def print_plan(plan: RunPlan, cost: Cost | None = None) -> None:
    """Print the plan as two tables and a line."""
    from rich.table import Table

    console = stdout_console()
    stages = Table("stage", "state", "", title=f"{plan.name}: stages", title_justify="left")
    for stage in plan.stages:
        style = {"done": "green", "waits": "dim"}.get(stage.state)
        stages.add_row(stage.stage, stage.state, stage.facts, style=style)
    console.print(stages)
    if plan.seconds is None:
        console.print("rows, steps, memory and time are known once the data is prepared: add --prepare")
        return
    table = Table(
        "phase", "tuning", "trained", "rows", "steps", "memory", "time", title="training", title_justify="left"
    )
    for scoring in plan.scorings:
        took = _took(scoring)
        memory = f"{scoring.memory_bytes / 1e9:.1f} GB"
        table.add_row(scoring.name, "", f"none of {scoring.parameters:,}", f"{scoring.rows:,}", "", memory, took)
    for phase in plan.phases:
        trained = f"{phase.trained:,} of {phase.parameters:,}"
        memory, took = f"{phase.memory_bytes / 1e9:.1f} GB", _took(phase)
        table.add_row(phase.name, phase.tuning, trained, f"{phase.rows:,}", f"{phase.steps:,}", memory, took)
        for thaw in phase.thaws:
            when, took = f"  from step {thaw.step:,}", "" if phase.done else f"{thaw.seconds:.0f} s"
            table.add_row(when, "" if thaw.steps else "never", f"{thaw.trained:,}", "", f"{thaw.steps:,}", "", took)
    console.print(table)
    console.print(_memory_table(plan))
    for phase in plan.phases:
        if phase.fits != "yes":
            console.print(f"{phase.name}: {_advice(phase)}", soft_wrap=True)
    console.print(f"about {plan.seconds:.0f} s in all; speed from {plan.speed}", soft_wrap=True)
    if cost:
        console.print(f"about {cost.line()}; storage, requests and waiting are not in it", soft_wrap=True)


def _took(plan: PhasePlan | ScoringPlan) -> str:
    return "done" if plan.done else f"{plan.seconds:.0f} s"


def _memory_table(plan: RunPlan) -> Table:
    """Return one column a phase, one line for each part that any of them has."""
    from rich.table import Table

    table = Table("one worker", *(phase.name for phase in plan.phases), title="memory", title_justify="left")
    parts = dict.fromkeys(part for phase in plan.phases for part in phase.memory)
    for part in parts:
        sizes = [phase.memory.get(part, 0) for phase in plan.phases]
        if any(sizes):
            table.add_row(part, *(in_bytes(size) if size else "" for size in sizes))
    predicted = [sum(phase.memory.values()) - phase.memory.get("process", 0) for phase in plan.phases]
    table.add_row("predicted, but for the process", *(in_bytes(size) for size in predicted), style="bold")
    if any(phase.measured_bytes is not None for phase in plan.phases):
        measured = ("" if phase.measured_bytes is None else in_bytes(phase.measured_bytes) for phase in plan.phases)
        table.add_row("measured", *measured, style="bold")
    table.add_row(
        "there is", *("unknown" if phase.room_bytes is None else in_bytes(phase.room_bytes) for phase in plan.phases)
    )
    return table


def _advice(phase: PhasePlan) -> str:
    if phase.room_bytes is None:
        return f"needs {in_bytes(phase.memory_bytes)}; whether it fits is {phase.fits}"
    if phase.fits.startswith("unknown"):
        return f"its memory is {phase.fits}"
    over = f"needs {in_bytes(phase.memory_bytes)}, of {in_bytes(phase.room_bytes)}"
    return f"{over}; it fits {phase.fits}" if phase.fits != "no" else f"{over}, and no setting of compute fits it"
