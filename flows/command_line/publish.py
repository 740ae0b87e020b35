"""`reglage registry publish`: a merged model, or one that was trained elsewhere, to a version."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.aliases import user_name
from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.options import set_option, work_option
from flows.command_line.registry_options import registry_options
from flows.models.places import model_folder
from ftlib.errors import RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import AliasEntry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.places import registry_at
from ftlib.registry.publish import Publish
from ftlib.registry.versions import model_name
from ftlib.storage import Place
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from flows.models.adopt import Adoption, Trial


@click.command()
@click.argument("folder", metavar="FOLDER")
@click.option("--name", metavar="NAME", help="What its versions are called. [default: the recipe's]")
@click.option("--to", metavar="URI", help="The registry. [default: the recipe's, else --registry]")
@click.option(
    "--recipe",
    "recipe_path",
    type=UserPath(dir_okay=False),
    help="The recipe whose evaluations measure it, and whose gates and rules of promotion hold.",
)
@click.option("--kind", type=click.Choice([*KINDS]), help="How it is asked, without a recipe. [default: by its config]")
@click.option("--champion-test", is_flag=True, help="Let the alias mean it if it passes the recipe's test.")
@click.option("--alias", metavar="NAME", help="What is tested and moves. [default: the recipe's, else champion]")
@click.option("--labels-may-change", is_flag=True, help="Take other labels than the champion's.")
@click.option("--description", help="The first sentence of its card.")
@click.option("--license", "license_id", metavar="SPDX", help="The licence that its card names.")
@click.option("--sign-with", metavar="FILE", help="A private key (PEM) that signs it.")
@click.option("--who", envvar="REGLAGE_USER", default=user_name, help="Who publishes it. [default: the user's name]")
@set_option
@work_option
@registry_options
@json_option
def publish(
    folder: str,
    name: str | None,
    to: str | None,
    recipe_path: Path | None,
    kind: Any,
    champion_test: bool,
    alias: str | None,
    labels_may_change: bool,
    description: str | None,
    license_id: str | None,
    sign_with: str | None,
    who: str,
    overrides: tuple[str, ...],
    work: str,
    registry: Place,
    as_json: bool,
) -> None:
    """Publish a model FOLDER that no run trained: one that was merged, or trained elsewhere.

    It passes what a run's version passes: no pickles, no code of its own, a tokenizer, the champion's labels, the
    recipe's gates; and before it can be seen it is read back, loaded and compared by logits.
    """
    from flows.command_line.quiet import quiet_libraries
    from flows.models.adopt import Adoption, adopt_folder, promote_adopted, try_champion

    quiet_libraries()
    recipe = load_recipe(recipe_path, overrides) if recipe_path else None
    _check_options(recipe, kind, name, overrides, champion_test=champion_test)
    given = {"description": description, "license": license_id, "sign_with": sign_with}
    changed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if name is not None:
        changed["name"] = model_name(name)
    if recipe is None or to is not None:
        changed["to"] = registry_at(registry.beside(to) if to else registry)
    published = recipe.publish.model_copy(update=changed) if recipe else Publish.model_validate(changed)
    alias = alias or (recipe.retrain.alias if recipe else "champion")
    if recipe:
        retrain = recipe.retrain.model_copy(update={"alias": alias})
        recipe = recipe.model_copy(update={"publish": published, "retrain": retrain})
    may_change = labels_may_change or bool(recipe and recipe.retrain.labels_may_change)
    asked = Adoption(model_folder(folder, registry), folder, published, recipe, kind, alias, may_change, who)
    place = recipe.work_place(work) if recipe else Workspace(work)
    adopted = adopt_folder(asked, place)
    lines, record = _outcome(folder, adopted.result)
    if champion_test and isinstance(adopted.result, ModelVersion):
        trial = try_champion(asked, adopted, place)
        record["trial"] = trial.model_dump(mode="json")
        by_rule = trial.go and not trial.held and not asked.asks_a_person
        moved = promote_adopted(asked, adopted.result, trial) if by_rule else None
        record["entry"] = moved.model_dump(mode="json") if moved else None
        lines += [f"the champion's test: {'; '.join(trial.reasons)}", _moved(asked, adopted.result, trial, moved)]
    emit("\n".join(lines), record, as_json)


def _check_options(
    recipe: Recipe | None, kind: str | None, name: str | None, overrides: tuple[str, ...], *, champion_test: bool
) -> None:
    """Raise RecipeError for options that a recipe has to go with, or cannot."""
    if recipe is None:
        if name is None:
            raise RecipeError("--name: give the name that its versions are called by, or --recipe, which has one")
        for option, used in (("--set", bool(overrides)), ("--champion-test", champion_test)):
            if used:
                raise RecipeError(f"{option} needs --recipe, whose evaluations and rules it is about")
    elif kind is not None:
        raise RecipeError("--kind: the recipe says how it is asked; leave one of the two out")
    elif recipe.tasks:
        raise RecipeError(
            f"{recipe.name} has several tasks, and a folder holds one model; give a recipe of the one that it answers"
        )


def _outcome(folder: str, result: ModelVersion | Refusal) -> tuple[list[str], dict[str, Any]]:
    """Say what became of a folder, in lines and as a record."""
    record = {"folder": folder, "version": None, "refused": [], "trial": None, "entry": None}
    if isinstance(result, Refusal):
        return [f"refused, nothing published: {'; '.join(result.reasons)}"], record | {"refused": [*result.reasons]}
    verb = "is now" if result.created else "was already"
    line = f"{result.name}@{result.version} {verb} in {result.registry}"
    return [line], record | {"version": result.model_dump(mode="json", exclude={"uri", "schema_version"})}


def _moved(asked: "Adoption", version: ModelVersion, trial: "Trial", entry: AliasEntry | None) -> str:
    """Say what the alias means after the test."""
    if entry:
        return f"{entry.name}@{entry.alias} is now version {entry.version}, entry {entry.sequence}"
    if not trial.go:
        return f"{version.name}@{asked.alias} stays as it is"
    where = f"--registry {version.registry}{asked.publish.to.place().server_option()}"
    spec = f"{version.name}@{version.version} --alias {asked.alias}"
    held = f"{trial.held}; " if trial.held else ""
    return f"{held}a person has to agree: reglage registry promote {spec} {where}"
