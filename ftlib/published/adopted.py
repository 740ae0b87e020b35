"""A version that no run of ours trained: its card and its lineage, which say where it came from and claim no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from ftlib.config import REPORT, BatchKind, Config
from ftlib.errors import ModelError
from ftlib.evaluation.measured import EvalReport
from ftlib.evaluation.results import interval_text
from ftlib.fingerprint import digest, identify
from ftlib.kinds.kind import KINDS
from ftlib.merging.recorded import MERGE_RECORD
from ftlib.models.folder import GENERATION_CONFIG, PROCESSOR_FILES, labels_of, read_config, read_json, weight_files
from ftlib.models.tensor_files import INDEX
from ftlib.published.lineage import code_facts
from ftlib.published.usage import usage
from ftlib.recipe.recipe import Recipe
from ftlib.registry.publish import Publish
from ftlib.registry.versions import MANIFEST, File
from ftlib.wording import block, code, counted, escaped, table

BESIDE = ("config.json", GENERATION_CONFIG, "processor_config.json", *PROCESSOR_FILES)
"""What a version takes of a folder beside its weights. Cards, code, optimizer states and the like stay behind."""


class Origin(Config):
    """Where a version came from that no run of ours trained."""

    folder: str
    """As it was given."""
    files: tuple[File, ...]
    """What was taken of it, as it lay there."""
    merge: dict[str, JsonValue] | None = None
    """The record of the merge that made it; None where the folder has none."""
    who: str = ""
    """Who published it; empty where nobody said."""


def taken(folder: Path) -> list[str]:
    """Return the names of a model folder's files that a version takes. Raises ModelError if there are no weights."""
    index = [INDEX] if (folder / INDEX).is_file() else []
    beside = [name for name in dict.fromkeys(BESIDE) if (folder / name).is_file()]
    return sorted([*beside, *index, *(path.name for path in weight_files(folder))])


def merge_record(folder: Path, weights: str) -> dict[str, JsonValue] | None:
    """Return what a folder's weights were merged from, by its `merge.json`; None without one.

    `weights` is the digest of its tensors. Raises ModelError for a record that is none, or of other weights.
    """
    if not (folder / MERGE_RECORD).is_file():
        return None
    record = read_json(folder / MERGE_RECORD)
    fields = cast("dict[str, JsonValue]", record) if isinstance(record, dict) else {}
    if fields.get("weights") != weights:
        raise ModelError(
            f"{folder / MERGE_RECORD} is not of these weights: they were trained on, or replaced, after the merge; "
            "remove it, or merge again"
        )
    return fields


def check_is_no_version(folder: Path) -> None:
    """Raise ModelError for the folder of a pulled version, whose lineage a publication of its files would lose."""
    if (folder / MANIFEST).is_file():
        raise ModelError(
            f"{folder} has a {MANIFEST}, so it is a version pulled from a registry: `reglage registry copy` takes that "
            f"to another one with its lineage; remove {MANIFEST} if the files were changed since"
        )


def adopted_lineage(
    origin: Origin, kind: BatchKind, weights: str, recipe: Recipe | None, warnings: Sequence[str] = ()
) -> dict[str, JsonValue]:
    """Return the lineage of a version that was published from a folder. It has no `data`: no row is known.

    `weights` is the digest of its tensors, `recipe` what it was measured by.
    """
    parts = cast("list[dict[str, Any]]", (origin.merge or {}).get("checkpoints") or [])
    merged = [part["weights"] for part in parts if part.get("weights")]
    return {
        "adopted": origin.model_dump(mode="json"),
        "kind": kind,
        "weights": {
            "published": weights,
            "candidate": "as given" if origin.merge is None else "merged elsewhere",
            "start": None,
            "end": None,
            "siblings": merged,
            "alpha": None,
            "merge": (origin.merge or {}).get("merge"),
            "warnings": list(warnings),
        },
        **(
            {
                "measured_by": recipe.model_dump(mode="json"),
                "measured_by_digest": digest(identify(recipe)),
            }
            if recipe
            else {}
        ),
        "code": code_facts(),
    }


def adopted_card(
    publish: Publish,
    kind: BatchKind,
    labels: Sequence[str],
    origin: Origin,
    recipe: Recipe | None,
    reports: Sequence[EvalReport],
) -> str:
    """Return the card of a version that was published from a folder: what is known of it, and what is not."""
    of, cells = KINDS[kind], [cell for report in reports for cell in report.measured]
    metrics = list(dict.fromkeys(metric for cell in cells for metric in cell.metrics))
    measured = [
        ["evaluation", "rows", *metrics],
        *([c.evaluation, str(c.rows), *(interval_text(c.metrics.get(metric)) for metric in metrics)] for c in cells),
    ]
    by = f" by {escaped(origin.who)}" if origin.who else ""
    results = [
        table(measured),
        f"Measured on the {REPORT} splits of {code(recipe.name if recipe else '')}'s evaluations, with bootstrap "
        "intervals over rows. Whether the model was trained on some of these rows is not known here.",
    ]
    knows = f"It knows {counted(len(labels), 'label')}: {escaped(', '.join(labels))}."
    parts = [
        f"# {publish.name}",
        escaped(publish.description or f"{of.title}, published from a folder."),
        "## Use",
        usage(recipe) if recipe else _snippet(kind),
        "## Results",
        *(results if cells else ["It was not measured before it was published."]),
        "## Where it came from",
        f"No run of Réglage trained it: its files were published{by} from the folder {code(Path(origin.folder).name)}. "
        f"`{MANIFEST}` has the digest of each file as it lay there.",
        *_merged(origin.merge),
        "## Limits",
        "\n".join(
            [
                *([f"- {knows}"] if labels else []),
                "- Which rows trained it is not known, so it cannot be asked whether a row did.",
            ]
        ),
    ]
    return f"---\n{_front_matter(publish, kind, origin, reports)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _merged(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return []
    method = dict(record.get("merge") or {})
    numbers = ", ".join(
        f"{name} {value}" for name, value in method.items() if name != "kind" and value not in (None, {}, [])
    )
    how = f"{method.get('kind')}{f' ({numbers})' if numbers else ''}"
    rows = [
        [str(part.get("name")), str(part.get("weights") or "not on record")] for part in record.get("checkpoints") or []
    ]
    return [f"It was merged by {escaped(how)} of:", table([["checkpoint", "weights"], *rows])]


def _snippet(kind: BatchKind) -> str:
    """Return how stock transformers loads it, where no recipe says how its texts are laid out."""
    loader, reader = KINDS[kind].auto_class, "AutoTokenizer"
    return block(
        f"from transformers import {', '.join(sorted([loader, reader]))}\n\n"
        f'folder = "path/to/this/folder"\n'
        f"tokenizer = {reader}.from_pretrained(folder)\nmodel = {loader}.from_pretrained(folder)",
        "python",
    )


def _front_matter(publish: Publish, kind: BatchKind, origin: Origin, reports: Sequence[EvalReport]) -> str:
    """Return the YAML that the Hub reads above the card: how it is loaded, its licence, tags and results."""
    from huggingface_hub import EvalResult, ModelCardData

    of, cells = KINDS[kind], [cell for report in reports for cell in report.measured]
    data = ModelCardData(
        model_name=publish.name,
        license=publish.license,
        library_name="transformers",
        pipeline_tag=of.pipeline,
        tags=["reglage", *(["merge"] if origin.merge else [])],
        metrics=sorted({metric for cell in cells for metric in cell.metrics}) or None,
        eval_results=[
            EvalResult(
                task_type=of.pipeline,
                task_name=of.title,
                dataset_type=cell.evaluation,
                dataset_name=cell.evaluation,
                dataset_split=cell.split,
                metric_type=metric,
                metric_name=metric.replace("_", " "),
                metric_value=round(estimate.value, 6),
            )
            for cell in cells
            for metric, estimate in cell.metrics.items()
            if estimate.value is not None
        ]
        or None,
    )
    return data.to_yaml()


def kind_of(folder: Path) -> BatchKind:
    """Return the plainest kind that a folder's model answers, by the classes and the problem that its config names.

    Raises ModelError where it names none that any kind is asked by.
    """
    config = read_config(folder)
    classes = cast("list[str]", config.get("architectures") or [])
    fitting = [kind for kind in KINDS.values() if any(name.endswith(kind.architectures) for name in classes[:1])]
    problem, labels = config.get("problem_type"), labels_of(folder)
    named = [kind for kind in fitting if problem and kind.head().config(labels).get("problem_type") == problem]
    if not fitting:
        raise ModelError(
            f"{folder}/config.json names the class {', '.join(classes) or 'of no model'}, which says nothing of how it "
            f"is asked; give --kind, one of {', '.join(KINDS)}"
        )
    return (named or fitting)[0].name
