"""What other tools see of a version: Hugging Face's own readers, and a real MLflow on sqlite."""

from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.exceptions import NoCredentialsError
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftlib.errors import IntegrityError, StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.hugging_face import export_folder
from ftlib.registry.mlflow import export_to_mlflow
from ftlib.registry.versions import Manifest, Version, file_of
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_classifier
from tests.ftlib.registry.kit import fine

METRICS = {"held_out/accuracy": 0.75, "shifted/log_loss": 0.5}


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """A classifier without a card, and one with a card of its own."""
    registry = ModelRegistry(LocalStore(tmp_path / "r"))
    model = tiny_classifier(tmp_path / "model", LABELS)
    for n, text in enumerate([None, "---\nlicense: mit\n---\n\n# Mine\n\nText.\n"]):
        if text:
            (model / "README.md").write_text(text)
        files = tuple(file_of(model, path.name) for path in sorted(model.iterdir()))
        manifest = Manifest(name="demo", description="Routes.", files=files, metrics=METRICS, lineage={"seed": 1})
        registry.publish(manifest, model, f"k{n}", fine, tmp_path)
    return registry


class TestFolder:
    def test_stock_transformers_loads_it(self, registry: ModelRegistry, tmp_path: Path):
        assert export_folder(registry, registry.version("demo"), tmp_path / "out")
        ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", use_safetensors=True)
        ids = torch.arange(8)[None]
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
        assert AutoTokenizer.from_pretrained(tmp_path / "out")("refund")["input_ids"]

    @pytest.mark.parametrize("number", [1, 2])
    def test_the_card_has_a_model_index_and_says_which_version(
        self, registry: ModelRegistry, tmp_path: Path, number: int
    ):
        version = registry.version("demo", number)
        export_folder(registry, version, tmp_path / "out")
        card = ModelCard.load(tmp_path / "out" / "README.md")
        found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
        assert found == {("held_out", "accuracy"): 0.75, ("shifted", "log_loss"): 0.5}
        assert card.data["reglage_version"] == f"demo@{number}"
        assert card.data["reglage_manifest_sha256"] == version.manifest
        assert card.data.license == (None if number == 1 else "mit")
        assert ("Routes." if number == 1 else "# Mine\n\nText.") in card.text

    def test_again_is_done_and_another_folder_is_not_touched(self, registry: ModelRegistry, tmp_path: Path):
        version = registry.version("demo")
        assert export_folder(registry, version, tmp_path / "out")
        assert not export_folder(registry, version, tmp_path / "out")
        with pytest.raises(StorageError, match=r"README.md has other bytes"):
            export_folder(registry, registry.version("demo", 1), tmp_path / "out")
        for change, said in (
            (lambda: (tmp_path / "out" / "README.md").write_text("changed"), "README.md has other bytes"),
            (lambda: (tmp_path / "out" / "README.md").write_bytes(b"\xff\xfe"), "README.md has other bytes"),
            (lambda: (tmp_path / "out" / "mine.txt").write_text("x"), "mine.txt is not part of the version"),
        ):
            change()
            with pytest.raises(StorageError, match=said):
                export_folder(registry, version, tmp_path / "out")
        assert (tmp_path / "out" / "mine.txt").read_text() == "x"
        assert [path.name for path in tmp_path.glob(".out.*")] == []

    def test_a_card_in_another_encoding_is_exported_with_what_can_be_read(
        self, registry: ModelRegistry, tmp_path: Path
    ):
        (tmp_path / "model" / "README.md").write_bytes("# Müll\r\n".encode("latin-1"))
        files = tuple(file_of(tmp_path / "model", name) for name in ("README.md", "config.json"))
        manifest = registry.manifest(registry.version("demo")).model_copy(update={"files": files})
        version, _ = registry.publish(manifest, tmp_path / "model", "latin", fine, tmp_path)
        assert export_folder(registry, version, tmp_path / "out")
        assert "# M\ufffdll" in (tmp_path / "out" / "README.md").read_text()
        assert not export_folder(registry, version, tmp_path / "out")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def server(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own client: what a user of its pages would see."""
    monkeypatch.chdir(tmp_path)  # sqlite's artifacts go to ./mlruns
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=database, registry_uri=database)


class TestMLflow:
    def export(self, registry: ModelRegistry, version: Version, server: Any, tmp_path: Path):
        return export_to_mlflow(registry, version, server.tracking_uri, experiment=tmp_path.name)

    def test_everything_there_comes_from_the_version(self, registry: ModelRegistry, server: Any, tmp_path: Path):
        registry.promote("demo", "champion", 2, None, "ann", "")
        registry.promote("demo", "canary", 1, None, "ann", "")
        before = len(server.search_model_versions("name = 'demo'"))
        done = self.export(registry, registry.version("demo"), server, tmp_path)
        assert (done.created, done.aliases) == (True, ("champion",))
        found = server.get_model_version_by_alias("demo", "champion")
        assert (str(found.version), found.status, found.description) == (done.version, "READY", "Routes.")
        assert found.tags == {
            "reglage.version": "demo@2",
            "reglage.manifest_sha256": registry.version("demo").manifest,
        }
        run = server.get_run(found.run_id)
        assert (run.info.status, run.data.metrics) == ("FINISHED", METRICS)
        folder = Path(server.download_artifacts(found.run_id, "model", str(tmp_path)))
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
        assert tuple(loaded.config.id2label.values()) == LABELS
        again = self.export(registry, registry.version("demo"), server, tmp_path)
        assert again == done.model_copy(update={"created": False})
        registry.promote("demo", "champion", 1, 1, "ann", "")
        old = self.export(registry, registry.version("demo", 1), server, tmp_path)
        assert set(old.aliases) == {"champion", "canary"}
        assert str(server.get_model_version_by_alias("demo", "champion").version) == old.version
        assert len(server.search_model_versions("name = 'demo'")) == before + 2

    def test_bytes_that_come_back_changed_register_nothing(
        self, registry: ModelRegistry, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        import mlflow.artifacts

        real = mlflow.artifacts.download_artifacts

        def flipped(**arguments: Any) -> str:
            folder = real(**arguments)
            (Path(folder) / "config.json").write_text("{}")
            return folder

        monkeypatch.setattr(mlflow.artifacts, "download_artifacts", flipped)
        manifest = registry.manifest(registry.version("demo")).model_copy(update={"name": "flipped"})
        version, _ = registry.publish(manifest, tmp_path / "model", "k", fine, tmp_path)
        with pytest.raises(IntegrityError, match=r"config.json has other bytes"):
            self.export(registry, version, server, tmp_path)
        assert server.search_registered_models("name = 'flipped'") == []
        experiment = server.get_experiment_by_name(tmp_path.name).experiment_id
        assert [run.info.status for run in server.search_runs([experiment])] == ["FAILED"]
        monkeypatch.undo()
        assert self.export(registry, version, server, tmp_path).created

    @pytest.mark.parametrize(("uri", "said"), [("./mlruns", "maintenance mode"), ("ftp://x", "unsupported URI")])
    def test_a_place_that_is_no_server(
        self, registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StorageError, match=rf"MLflow at {uri} refused demo@2: .*{said}.*; give --tracking-uri a"):
            export_to_mlflow(registry, registry.version("demo"), uri)

    def test_a_store_of_artifacts_that_refuses(
        self, registry: ModelRegistry, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(*_: object) -> None:
            raise NoCredentialsError

        monkeypatch.setattr("mlflow.MlflowClient.log_artifacts", refuse)
        manifest = registry.manifest(registry.version("demo")).model_copy(update={"name": "kept_back"})
        version, _ = registry.publish(manifest, tmp_path / "model", "k2", fine, tmp_path)
        said = r"MLflow's store of artifacts at .*/model refused kept_back@1: Unable to locate credentials; give this"
        with pytest.raises(StorageError, match=said):
            self.export(registry, version, server, tmp_path)
        experiment = server.get_experiment_by_name(tmp_path.name).experiment_id
        assert [run.info.status for run in server.search_runs([experiment])] == ["FAILED"]

    def test_a_server_that_is_not_there(self, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(StorageError, match=r"MLflow at http://127.0.0.1:9 refused demo@2"):
            export_to_mlflow(registry, registry.version("demo"), "http://127.0.0.1:9")
