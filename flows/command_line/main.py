"""The command line `reglage`. Reading a recipe imports no torch, no Prefect and no Ray."""

import os
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import ClassVar, cast

import click

import ftlib
from flows.command_line.console import ReglageGroup, emit, json_option
from flows.command_line.options import (
    budget_option,
    recipe_argument,
    set_option,
    tracking_options,
    with_budget,
    work_option,
)

STARTED = monotonic()


class LazyGroup(ReglageGroup):
    """Loads the commands of other modules when they are asked for, so that `check` stays quick."""

    elsewhere: ClassVar = {
        "registry": "flows.command_line.registry",
        "search": "flows.command_line.search",
        "predict": "flows.command_line.predict",
        "interpolate": "flows.command_line.interpolate",
        "evaluate": "flows.command_line.evaluate",
        "tensorboard": "flows.command_line.tensorboard",
        "suite": "flows.command_line.suite",
        "forget": "flows.command_line.forget",
        "lineage": "flows.command_line.lineage",
        "judge": "flows.command_line.judge",
        "look": "flows.command_line.look",
        "doctor": "flows.command_line.doctor",
        "deploy": "flows.command_line.deploy",
        "up": "flows.command_line.up",
        "down": "flows.command_line.up",
        "status": "flows.command_line.up",
        "init": "flows.command_line.init",
        "runs": "flows.command_line.runs",
        "work": "flows.command_line.work",
        "monitor": "flows.command_line.monitor",
        "serve": "flows.command_line.serve",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command."""
        if cmd_name in self.elsewhere:
            return cast("click.Command", getattr(import_module(self.elsewhere[cmd_name]), cmd_name))
        return super().get_command(ctx, cmd_name)


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from ftlib.origin import origin

    code = origin()
    click.echo(f"reglage {ftlib.__version__}, commit {code.commit}, lock {code.lock_sha256[:12]}")
    ctx.exit()


@click.group(cls=LazyGroup)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, its commit and its lock's digest, and exit.",
)
def main() -> None:
    """Fine-tune as a production pipeline: from raw rows to a verified, published model version."""


@main.command()
@recipe_argument
@set_option
@work_option
@budget_option
@tracking_options
@json_option
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    work: str,
    budget: float | None,
    tensorboard: str | None,
    mlflow: str | None,
    as_json: bool,
) -> None:
    """Run a recipe from raw rows to a published version. What is done already is not done again."""
    from flows.command_line.run import run_recipe

    record = run_recipe(recipe, with_budget(overrides, budget), work, STARTED, tensorboard, mlflow)
    from flows.command_line.run_summary import as_record, print_summary

    emit(lambda: print_summary(record, work), as_record(record, work), as_json)


@main.command()
@recipe_argument
@set_option
@work_option
@budget_option
@tracking_options
@json_option
def retrain(
    recipe: Path,
    overrides: tuple[str, ...],
    work: str,
    budget: float | None,
    tensorboard: str | None,
    mlflow: str | None,
    as_json: bool,
) -> None:
    """Retrain if the sources hold something new; promote the result only if it holds against the champion."""
    from flows.command_line.run import run_retraining

    challenge = run_retraining(recipe, with_budget(overrides, budget), work, tensorboard, mlflow)
    from flows.command_line.retrain_summary import as_record, print_retraining

    emit(lambda: print_retraining(challenge, work), as_record(challenge), as_json)


@main.command()
@recipe_argument
@set_option
@json_option
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Validate a recipe: every problem on one line, with its path."""
    from flows.command_line.recipe_notes import checked_recipe

    loaded, remarks = checked_recipe(recipe, overrides)
    facts = {
        "ok": True,
        "name": loaded.name,
        "model": loaded.model.path,
        "datasets": list(loaded.datasets),
        "phases": [phase.name for phase in loaded.phases],
        "evaluations": list(loaded.evaluations),
        "notes": remarks,
    }
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    phases = " > ".join(f"{phase.name} ({phase.tuning.kind})" for phase in loaded.phases)
    emit(f"{recipe}: fits together: {loaded.model.path} > {phases} > {loaded.publish.name}", facts, as_json)


@main.command()
@recipe_argument
@set_option
@work_option
@click.option("--prepare", is_flag=True, help="Ingest and preprocess first: rows and their sizes are known only then.")
@click.option("--card", help="Predict for workers with this GPU each, as H100-80, whatever this machine has.")
@json_option
def plan(recipe: Path, overrides: tuple[str, ...], work: str, prepare: bool, card: str | None, as_json: bool) -> None:
    """Show what a run would do: stages, rows, steps, parameters, and predicted memory and time."""
    from flows.command_line.quiet import quiet_libraries
    from ftlib.recipe.file import load_recipe

    quiet_libraries()
    loaded = load_recipe(recipe, overrides)
    from flows.command_line.plan_tables import cost_of, print_plan
    from flows.planning.plan import make_plan
    from ftlib.costs.prices import read_prices
    from ftlib.progress import NOTE, Progress, listen

    def remark(sign: Progress) -> None:
        if sign.unit == NOTE:
            click.echo(f"note: {sign.text}", err=True)

    with listen(remark):
        run_plan = make_plan(loaded, loaded.work_place(work), prepare=prepare, card=card)
    cost = cost_of(run_plan, loaded, read_prices(), os.cpu_count() or 1, card)
    record = {**run_plan.model_dump(mode="json"), "cost": cost and cost.model_dump(mode="json")}
    emit(lambda: print_plan(run_plan, cost), record, as_json)


@main.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the recipe's JSON schema, for editors that complete and check YAML."""
    import json

    from ftlib.recipe.schema import recipe_schema

    json_schema = recipe_schema()
    emit(json.dumps(json_schema, indent=2), json_schema, as_json)


if __name__ == "__main__":
    main()
