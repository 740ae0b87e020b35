"""Export of a version to an MLflow tracking server, for its pages of runs, metrics and models.

Ours stays the source of truth: MLflow registers a source that does not exist as READY and moves an alias without asking
what it meant. So its model version is created last, after the files it stores have been read back and compared, and
it gets the aliases that the version has here.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.config import Config
from ftlib.errors import IntegrityError, RecipeError, ReglageError, StorageError, first_line
from ftlib.registry.registry import ModelRegistry
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import Manifest, Version, differences
from ftlib.urls import secret_in
from ftlib.wording import escaped

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "reglage.manifest_sha256"
VERSION_TAG = "reglage.version"
FOLDER = "model"


class Exported(Config):
    """A version in MLflow."""

    model: str
    version: str
    """MLflow's number; it counts exports, so it need not be ours."""
    run_id: str
    aliases: tuple[str, ...]
    created: bool
    """False if this version had been exported before."""


def export_to_mlflow(
    registry: ModelRegistry,
    version: Version,
    tracking_uri: str,
    experiment: str = "reglage",
    key: PublicKey | None = None,
) -> Exported:
    """Copy a version's files, metrics and lineage to MLflow, and the aliases that mean it now.

    Exporting it again moves the aliases only. Raises RecipeError if MLflow is not installed or the URI holds a secret,
    StorageError if the server or its store of artifacts refuses, IntegrityError if the version is damaged or MLflow
    gives back other bytes; no model version appears then.
    """
    if secret := secret_in(tracking_uri):
        raise RecipeError(f"--tracking-uri is {secret}; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    manifest = registry.manifest(version, key)
    aliases = [
        entry.alias
        for name in registry.aliases(version.name)
        if (entry := registry.alias(version.name, name)) and entry.version == version.version
    ]
    with _in_one_line(
        f"MLflow at {tracking_uri}",
        version,
        "give --tracking-uri a running server (http://host:5000) or a database (sqlite:///mlflow.db)",
    ):
        client = mlflow_client(tracking_uri)
        exported: Any = _exported_before(client, version)
        created = exported is None
        if exported is None:
            run_id = _log(client, experiment, version, manifest)
            source = _copy(client, run_id, registry, version, key)
            _ensure_model(client, version.name)
            exported = client.create_model_version(
                version.name, source, run_id, tags=_tags(version), description=escaped(manifest.description) or None
            )
        for alias in aliases:
            client.set_registered_model_alias(version.name, alias, exported.version)
    return Exported(
        model=version.name,
        version=str(exported.version),
        run_id=exported.run_id,
        aliases=tuple(aliases),
        created=created,
    )


@contextmanager
def _in_one_line(where: str, version: Version, remedy: str) -> Generator[None]:
    """Turn whatever MLflow and the clients below it raise into StorageError: they share no class."""
    try:
        yield
    except ReglageError:
        raise
    except Exception as error:
        raise StorageError(f"{where} refused {version}: {first_line(error)}; {remedy}, and export it again") from error


def mlflow_client(tracking_uri: str) -> MlflowClient:
    """Return a quiet client. Raises RecipeError if MLflow is not installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise RecipeError("MLflow is not installed; pip install 'reglage[mlflow]'") from error
    for name in ("mlflow", "alembic"):  # a new database's migrations speak
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _exported_before(client: MlflowClient, version: Version) -> Any:
    """Return MLflow's version of ours; a tag with our number and digest is unique."""
    tagged = " and ".join(f"tags.`{name}` = '{value}'" for name, value in _tags(version).items())
    return next(iter(client.search_model_versions(f"name = '{version.name}' and {tagged}")), None)


def _tags(version: Version) -> dict[str, Any]:
    return {VERSION_TAG: str(version), DIGEST_TAG: version.manifest}


def _log(client: MlflowClient, experiment: str, version: Version, manifest: Manifest) -> str:
    """Make a run with the version's metrics; it stays RUNNING until its files are there."""
    from mlflow.entities import Metric

    existing = client.get_experiment_by_name(experiment)
    experiment_id = existing.experiment_id if existing else client.create_experiment(experiment)
    run_id = client.create_run(experiment_id, tags=_tags(version), run_name=str(version)).info.run_id
    now = int(time.time() * 1000)
    metrics = {name: value for name, value in manifest.metrics.items() if value is not None}
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])
    client.log_dict(run_id, manifest.lineage, "lineage.json")
    return run_id


def _copy(client: MlflowClient, run_id: str, registry: ModelRegistry, version: Version, key: PublicKey | None) -> str:
    """Upload the files and return where they are, once what MLflow gives back is what the manifest says."""
    from mlflow.artifacts import download_artifacts

    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            registry.pull(version, whole := Path(scratch, FOLDER), key)
            source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
            with _in_one_line(
                f"MLflow's store of artifacts at {source}",
                version,
                "give this machine the store's credentials and its client, or let the server keep the artifacts "
                "(mlflow server --serve-artifacts)",
            ):
                client.log_artifacts(run_id, str(whole), FOLDER)
                back = download_artifacts(
                    artifact_uri=source, dst_path=str(Path(scratch, "back")), tracking_uri=client.tracking_uri
                )
            if faults := list(differences(registry.manifest(version), Path(back))):
                raise IntegrityError(
                    f"MLflow gives {version} back wrong: {faults[0].path} {faults[0].problem}; export it again"
                )
        status = "FINISHED"
        return source
    finally:
        client.set_terminated(run_id, status)


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
