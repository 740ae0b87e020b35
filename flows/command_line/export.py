"""`reglage registry export`: write a version for other tools, MLflow and the Hugging Face Hub."""

from pathlib import Path

import click

from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.registry_options import facts, key_option, open_registry, registry_options, version_argument
from ftlib.registry.hugging_face import export_folder
from ftlib.registry.mlflow import export_to_mlflow
from ftlib.registry.signing import PublicKey
from ftlib.storage import Place


@click.group()
def export() -> None:
    """Copy a version to a Hugging Face folder or to MLflow."""


@export.command("hf-folder")
@version_argument
@click.argument("folder", type=UserPath(file_okay=False))
@key_option
@registry_options
@json_option
def hf_folder(version: str, folder: Path, key: PublicKey | None, registry: Place, as_json: bool) -> None:
    """Write a version to FOLDER, its card saying which version it is: ready for from_pretrained and the Hub."""
    opened = open_registry(registry)
    resolved, target = opened.resolve(version), folder.absolute()
    created = export_folder(opened, resolved, target, key)
    record = {**facts(resolved), "folder": str(target), "created": created}
    emit(f"{resolved} {'is now' if created else 'was already'} in {target}", record, as_json)


@export.command("mlflow")
@version_argument
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", required=True, metavar="URI", help="The MLflow server.")
@click.option("--experiment", default="reglage", show_default=True, help="The experiment in which the run appears.")
@key_option
@registry_options
@json_option
def mlflow(
    version: str,
    tracking_uri: str,
    experiment: str,
    key: PublicKey | None,
    registry: Place,
    as_json: bool,
) -> None:
    """Copy a version with its metrics to MLflow, and the aliases that mean it. Needs the extra reglage[mlflow]."""
    opened = open_registry(registry)
    resolved = opened.resolve(version)
    done = export_to_mlflow(opened, resolved, tracking_uri, experiment, key)
    aliases = f", {', '.join(done.aliases)}" if done.aliases else ""
    state = "is now" if done.created else "was already"
    sentence = f"{resolved} {state} {done.model} version {done.version} in MLflow{aliases}"
    emit(sentence, {**facts(resolved), "mlflow": done.model_dump(mode="json")}, as_json)
