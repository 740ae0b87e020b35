"""What a version was made from, and by what: enough to make it again and to ask which rows trained it."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

import ftlib
from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.prepared import SPLITS
from ftlib.data.snapshot import rows_by_file
from ftlib.errors import StorageError
from ftlib.extensions import in_use
from ftlib.fingerprint import digest, identify
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.origin import origin
from ftlib.published.row_index import (
    ROWS,
    RowIndex,
    contains,
    index_file,
    read_row_index,
    rows_from,
    rows_of,
    write_row_index,
)
from ftlib.recipe.evidence import Evidence
from ftlib.registry.reading import RegistryReader
from ftlib.registry.versions import Manifest, Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOUND = (
    *("l2", "l2_chosen_on", "sentences", "scale", "scale_chosen_on", "explained"),
    *("removed_layers", "fisher", "fisher_rows"),
)
"""Facts of a training that the recipe left open; they depend on its rows alone, so equal runs say the same."""

_OF_A_PLACE = {"uri", "seconds", "schema_version"}


def lineage(
    evidence: Evidence,
    weights: Mapping[str | None, str],
    warnings: Sequence[str] = (),
    indexes: Mapping[str, RowIndex] | None = None,
    answered: Mapping[str, JsonValue] | None = None,
) -> dict[str, JsonValue]:
    """Return a version's lineage as JSON.

    `weights` are the digests of the published tensors, by task, or by None where there is one model; `warnings` are the
    merge's, `indexes` what `index_rows` wrote, `answered` what `ftlib.published.answers` counted.
    """
    recipe, model, chosen = evidence.recipe, evidence.model, evidence.selection.chosen
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": digest(identify(recipe)),
        "base_model": {"name": model.name, "weights": model.weights, "tokenizer": model.tokenizer},
        "data": {
            name: {
                "files": _files(evidence.raw[name]),
                "raw": evidence.raw[name].content,
                "prepared": data.content,
                "rows": {split: facts.rows for split, facts in data.splits.items()},
                "dropped": dict(data.ledger.dropped),
                "leaked": data.leaked,
                **_personal_data(evidence, name),
                "profile": data.profile.model_dump(mode="json"),
                **({"index": indexes[name].model_dump(mode="json")} if indexes else {}),
            }
            for name, data in sorted(evidence.prepared.items())
        },
        "weights": {
            "published": weights[None] if None in weights else digest([*weights.values()]),
            **({} if None in weights else {"tasks": {str(task): one for task, one in weights.items()}}),
            "candidate": chosen.name,
            "start": chosen.start.weights if chosen.mixes else chosen.end.parent,
            "end": chosen.end.weights,
            "siblings": [sibling.weights for sibling in chosen.siblings],
            "alpha": chosen.alpha,
            "merge": chosen.merge.model_dump(mode="json") if chosen.merge else None,
            **({"statistics": chosen.statistics.model_dump(exclude={"uri"})} if chosen.statistics else {}),
            "warnings": list(warnings),
        },
        **({"companions": companions} if (companions := _companions(evidence)) else {}),
        **({"onto": {"model": called(evidence.onto), "weights": evidence.onto.weights}} if evidence.onto else {}),
        **({"fisher": evidence.fisher.model_dump(mode="json", exclude=_OF_A_PLACE)} if evidence.fisher else {}),
        **({"principles": principles} if (principles := _principles(evidence)) else {}),
        **({"answers": dict(answered)} if answered else {}),
        "found": _found(evidence),
        "code": code_facts(),
        **({"extensions": cast("JsonValue", brought)} if (brought := in_use(recipe)) else {}),
    }


def _personal_data(evidence: Evidence, name: str) -> dict[str, JsonValue]:
    """Return what was counted of personal data in a dataset's rows, and what the recipe did with it; maybe nothing."""
    counts = evidence.raw[name].personal_data
    if not counts:
        return {}
    asked = evidence.recipe.datasets[name].personal_data
    done = {column: asked.action(column) for column in counts}
    return {"personal_data": {"matches": cast("JsonValue", counts), "action": cast("JsonValue", done)}}


def _companions(evidence: Evidence) -> list[JsonValue]:
    """Return the frozen models that had a part in a phase: which phase, by what name, how, and which bytes."""
    return [
        {
            "phase": phase.name,
            "name": name,
            "use": "companion" if name in phase.companions else "scores" if name in phase.scores else name,
            "model": called(companion),
            "weights": companion.weights,
            "tokenizer": companion.tokenizer,
        }
        for phase in evidence.recipe.phases
        for name, companion in evidence.companions.get(phase.name, {}).items()
    ]


def _principles(evidence: Evidence) -> list[JsonValue]:
    """Return the sentences by which a phase's pairs were made, who judged, and what came of it."""
    return [
        {"phase": one.phase, "critic": one.critic, **pair.model_dump(mode="json", exclude={"outcomes"})}
        for one in evidence.upheld
        for pair in one.drafted
    ]


def called(companion: FoundModel | Checkpoint) -> str:
    """Return how people call a companion: as the recipe does, or by the phase whose end it is."""
    return companion.name if isinstance(companion, FoundModel) else f"the end of {companion.phase}"


def _found(evidence: Evidence) -> dict[str, JsonValue]:
    """Return what each phase chose for itself, by the phase's name."""
    facts_by_phase: dict[str, dict[str, JsonValue]] = {
        end.phase: {name: end.facts[name] for name in FOUND if name in end.facts} for end in evidence.trained
    }
    return {phase: facts for phase, facts in facts_by_phase.items() if facts}


def _files(raw: RawDataset) -> list[JsonValue]:
    """Return every file with the rows it gave, if the source says which; no listing's token."""
    rows = rows_by_file(raw.path / "rows.parquet")
    told = None not in rows
    return [
        {**file.model_dump(exclude={"version"}), **({"rows": rows[index]} if told else {})}
        for index, file in enumerate(raw.files)
    ]


def index_rows(evidence: Evidence, folder: Path) -> dict[str, RowIndex]:
    """Write which rows trained and which were held out below a version's folder, for every dataset."""
    recipe = evidence.recipe
    return {
        name: write_row_index(
            folder,
            name,
            prepared,
            evidence.raw[name],
            SPLITS if name in recipe.training_datasets() else SPLITS[1:],
            recipe.datasets[name].key,
            recipe.datasets[name].split.salt,
        )
        for name, prepared in sorted(evidence.prepared.items())
    }


def indexes_of(version: Version, manifest: Manifest) -> dict[str, RowIndex]:
    """Return what a version has indexed, by dataset. Raises StorageError if it was published without an index."""
    data = cast("dict[str, Any]", manifest.lineage.get("data") or {})
    if not data or not all("index" in facts for facts in data.values()):
        raise StorageError(
            f"{version} has no index of its rows: it was published before there was one, or not by a run; "
            "run its recipe again to publish a version that has"
        )
    return {name: RowIndex.model_validate(facts["index"]) for name, facts in data.items()}


def trained_rows(registry: RegistryReader, version: Version) -> dict[str, NDArray[np.bytes_]]:
    """Return the ids of the rows a version was trained on: by dataset a sorted array of 16 bytes a row.

    Reads the index alone, every byte checked. Raises StorageError if the version has none.
    """
    import numpy as np

    manifest = registry.manifest(version)
    files = {file.path: file for file in manifest.files}
    indexes: dict[str, NDArray[np.bytes_]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, index in indexes_of(version, manifest).items():
            if "train" in index.splits:
                file = files[index_file(name, "train", ROWS)]
                registry.store.get_file(file.blob, copy := Path(scratch, name), file.sha256)
                indexes[name] = np.array(read_row_index(copy))
    return indexes


def indexed_rows(folder: Path, dataset: str, index: RowIndex) -> dict[Split, NDArray[np.bytes_]]:
    """Return the ids of a dataset's rows by split, sorted, from the index in a pulled version's folder."""
    return {split: read_row_index(folder / index_file(dataset, split, ROWS)) for split in index.splits}


def compare_rows(
    raw: RawDataset, prepared: PreparedDataset, files: Collection[int], seen: Mapping[Split, NDArray[np.bytes_]]
) -> tuple[int, int]:
    """Count the rows of some files that a version has never seen, and the rows it was trained on that are gone.

    `files` are places in `raw.files`, `seen` what `indexed_rows` returns. An edited row is a fresh one and a gone one.
    Rows that preprocessing dropped are not fresh: they would neither train nor be measured.
    """
    import numpy as np

    fresh = rows_from(raw, files)
    fresh = fresh[contains(np.sort(np.concatenate([rows_of(prepared, split) for split in SPLITS])), fresh)]
    for rows in seen.values():
        fresh = fresh[~contains(rows, fresh)]
    gone = ~contains(rows_from(raw), seen["train"]) if "train" in seen else np.zeros(0, np.bool_)
    return len(fresh), int(gone.sum())


def code_facts() -> dict[str, JsonValue]:
    """Return which code ran: our version, commit and lock's digest, and the libraries that decide numbers."""
    code = origin()
    return {
        "reglage": ftlib.__version__,
        "commit": code.commit,
        "lock_sha256": code.lock_sha256,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "safetensors", "peft")},
    }
