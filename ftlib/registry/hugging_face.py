"""Export of a version as the plain folder that every Hugging Face tool loads and the Hub shows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.errors import StorageError
from ftlib.registry.registry import ModelRegistry
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import Manifest, Version, differences
from ftlib.storage.files import local_errors
from ftlib.wording import escaped

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"


def export_folder(registry: ModelRegistry, version: Version, target: Path, key: PublicKey | None = None) -> bool:
    """Write a version to `target`, with a card that says which version it is. False if it was there already.

    The card keeps its text; a `model-index` is added from the version's metrics if it has none. Raises StorageError,
    touching nothing, if `target` holds anything else; what `ModelRegistry.pull` raises.
    """
    manifest = registry.manifest(version, key)
    with local_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            if target.exists() and any(target.iterdir()):
                _check_same(registry, version, manifest, target, Path(scratch))
                return False
            registry.pull(version, whole := Path(scratch, "whole"), key)
            (whole / CARD).write_bytes(card(version, manifest, whole / CARD).encode())
            whole.rename(target)
    return True


def card(version: Version, manifest: Manifest, original: Path) -> str:
    """Return the exported card: the version's own, or a short one, with its name, number and results.

    Bytes of its own that are no UTF-8 are replaced by the sign for that.
    """
    from huggingface_hub import ModelCard

    plain = f"---\n---\n\n# {version.name}\n\n{escaped(manifest.description)}\n"
    own = original.read_text(encoding="utf-8", errors="replace") if original.is_file() else plain
    model_card: Any = ModelCard(own)
    if model_card.data.eval_results is None:
        model_card.data.model_name, model_card.data.eval_results = (
            version.name,
            _results(manifest, model_card.data.pipeline_tag),
        )
    model_card.data["reglage_version"] = str(version)
    model_card.data["reglage_manifest_sha256"] = version.manifest
    return str(model_card)


def _results(manifest: Manifest, task: str | None) -> list[EvalResult] | None:
    from huggingface_hub import EvalResult

    parts = [(*name.partition("/")[::2], value) for name, value in manifest.metrics.items() if value is not None]
    return [
        EvalResult(
            task_type=task or "other",
            dataset_type=evaluation,
            dataset_name=evaluation,
            metric_type=metric or evaluation,
            metric_value=round(value, 6),
        )
        for evaluation, metric, value in parts
    ] or None


def _check_same(registry: ModelRegistry, version: Version, manifest: Manifest, target: Path, scratch: Path) -> None:
    """Raise StorageError unless a folder is just this export."""
    for file in manifest.files:
        if file.path == CARD:
            registry.store.get_file(file.blob, scratch / CARD, file.sha256)
    there, ours = target / CARD, card(version, manifest, scratch / CARD).encode()
    same = there.is_file() and there.read_bytes() == ours
    faults = [f"{fault.path} {fault.problem}" for fault in differences(manifest, target) if fault.path != CARD]
    if faults or not same:
        raise StorageError(
            f"{target} is not empty and not the export of {version} ({(faults or [f'{CARD} has other bytes'])[0]}); "
            "export to another folder or remove this one"
        )
