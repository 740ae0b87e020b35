"""A version's README.md: a model card in the Hugging Face format, made from the run's records.

Format: https://huggingface.co/docs/hub/model-cards and, for `model-index`,
https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ftlib.config import REPORT, SELECTION
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats import Format
from ftlib.data.formats.text import reads_text
from ftlib.data.inputs import Pixels
from ftlib.data.prepared import inputs_in, split_file
from ftlib.evaluation.results import results, text_table
from ftlib.evaluation.selection import Selection
from ftlib.kinds.kind import KINDS
from ftlib.kinds.table.row import Kind
from ftlib.merging.candidates import Candidate
from ftlib.merging.methods import METHODS
from ftlib.models.adapter import read_adapter
from ftlib.models.checkpoint import BOTTLENECK, Checkpoint, FoundModel
from ftlib.models.folder import read_config
from ftlib.models.with_diffusers import ONE_MODEL, PACKAGE
from ftlib.published.lineage import called
from ftlib.published.usage import adapter_usage, adapter_version_usage, tasks_usage, usage
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.registry.versions import MANIFEST
from ftlib.training.phase import Phase
from ftlib.wording import code, counted, escaped, table


def model_card(evidence: Evidence, plots: Sequence[str] = ()) -> str:
    """Return the card's text: front matter for machines, the same facts and their limits for people.

    `plots` are paths of pictures beside the card.
    """
    recipe, model, prepared, selection = evidence.recipe, evidence.model, evidence.prepared, evidence.selection
    return (
        f"---\n{_front_matter(evidence)}\n---\n\n"
        + "\n\n".join(
            [
                f"# {recipe.publish.name}",
                escaped(recipe.publish.description or f"{_kind(recipe).title}, fine-tuned from {model.name}."),
                "## Use",
                *_use(evidence),
                "## Results",
                table(text_table(results(evidence.final, selection, recipe.evaluations))),
                f"Measured on the {REPORT} splits, which took part neither in training nor in the choice of this "
                f"model. In brackets: {_confidence(recipe)} bootstrap intervals over rows.",
                *_signatures(evidence),
                *(f"![{Path(plot).stem.replace('_', ' ')}]({plot})" for plot in plots if plot.endswith(".png")),
                "## How it was made",
                *_removed(evidence),
                "\n".join(f"{i}. {_phase(phase, evidence)}" for i, phase in enumerate(recipe.phases, start=1)),
                f"{_interpolation(evidence)} The rule, on the {SELECTION} splits: "
                f"{escaped(selection.rule.rstrip('.'))}. Its reason: {escaped(selection.why.rstrip('.'))}.",
                "## Data",
                table(_data(prepared)),
                *_personal_data(evidence),
                "## Limits",
                "\n".join(f"- {line}" for line in _limits(recipe, prepared, selection)),
                f"`report.html` beside this card shows the whole run; `{MANIFEST}` has the recipe and the digest of "
                "every input and file.",
            ]
        )
        + "\n"
    )


def _library(selection: Selection) -> str:
    """Return what loads the version."""
    end = selection.chosen.end
    ours = end.form == "adapter" and read_adapter(end.folder)["peft_type"] == BOTTLENECK
    if read_config(end.folder).get("model_type") == ONE_MODEL:
        return PACKAGE
    return "reglage" if ours else "peft" if end.form == "adapter" else "transformers"


def _use(evidence: Evidence) -> list[str]:
    if evidence.recipe.tasks:
        return tasks_usage(evidence.recipe)
    if base := evidence.stands_on:
        return [adapter_version_usage(evidence.recipe, base, read_adapter(evidence.selection.chosen.end.folder))]
    return [usage(evidence.recipe), *_adapter(evidence)]


def _adapter(evidence: Evidence) -> list[str]:
    if not evidence.recipe.publish.adapter:
        return []
    end = evidence.selection.chosen.end
    pads = [read_config(folder).get("pad_token_id") for folder in (evidence.model.folder, end.folder)]
    pad = pads[1] if pads[0] != pads[1] and _kind(evidence.recipe).reads_one_place else None
    return ["### The adapter alone", adapter_usage(evidence.recipe, evidence.model, len(end.labels), pad)]


def _signatures(evidence: Evidence) -> list[str]:
    """Return what the results must be cited with, where a metric has more than a name."""
    cells = evidence.measured(evidence.selection.chosen.name).values()
    sentences = dict.fromkeys(
        f"{code(metric)} is {escaped(text)}." for cell in cells for metric, text in cell.signatures.items()
    )
    return [" ".join(sentences)] if sentences else []


def _front_matter(evidence: Evidence) -> str:
    """Return the YAML that the Hub reads above the card: base model, data, licence, tags and results."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe, model, selection = evidence.recipe, evidence.model, evidence.selection
    kind, stands_on = _kind(recipe), (model.base or model).name
    cells = evidence.measured(selection.chosen.name).values()
    data = ModelCardData(
        model_name=recipe.publish.name,
        license=recipe.publish.license,
        base_model=stands_on.partition("@")[0] if _is_hub_name(stands_on) else None,
        datasets=_hub_datasets(recipe) or None,
        library_name=_library(selection),
        pipeline_tag=kind.pipeline,
        tags=_tags(recipe, selection),
        metrics=sorted({metric for cell in cells for metric in cell.metrics}),
        eval_results=[
            EvalResult(
                task_type=_kind_of(recipe, cell.evaluation).pipeline,
                task_name=_kind_of(recipe, cell.evaluation).title,
                dataset_type=recipe.evaluations[cell.evaluation].dataset,
                dataset_name=f"{cell.evaluation} ({recipe.evaluations[cell.evaluation].role})",
                dataset_split=cell.split,
                metric_type=metric,
                metric_name=metric.replace("_", " "),
                metric_value=round(estimate.value, 6),
            )
            for cell in cells
            for metric, estimate in cell.metrics.items()
            if estimate.value is not None  # the Hub's index knows numbers only
        ]
        or None,
    )
    return data.to_yaml()


def _kind(recipe: Recipe) -> Kind:
    return KINDS[recipe.kind(recipe.phases[-1])]


def _kind_of(recipe: Recipe, evaluation: str) -> Kind:
    """Return the kind of what answers an evaluation's rows: the model, or its task."""
    return _kind(recipe.of_task(recipe.datasets[recipe.evaluations[evaluation].dataset].task))


def _is_hub_name(name: str) -> bool:
    """A pinned hub model is named `owner/name@<commit>`; a folder or package path is nothing the hub could link."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name) is not None


def _hub_datasets(recipe: Recipe) -> list[str]:
    sources = [recipe.datasets[name].source for name in recipe.training_datasets()]
    return [source.hub_name for source in sources if source.hub_name]


def _tags(recipe: Recipe, selection: Selection) -> list[str]:
    tunings = {phase.tuning.kind.replace("_", "-") for phase in recipe.chain}
    merged = {recipe.interpolation.kind.replace("_", "-")} if _is_merged(selection.chosen) else set[str]()
    return ["reglage", *sorted(tunings | merged)]


def _is_merged(chosen: Candidate) -> bool:
    return chosen.merge is not None and chosen.merge.whole_copy() is None


def _confidence(recipe: Recipe) -> str:
    levels = sorted({evaluation.confidence for evaluation in recipe.evaluations.values()})
    return " and ".join(f"{100 * level:.4g} %" for level in levels)


def _removed(evidence: Evidence) -> list[str]:
    """Say in a sentence which layers the base model lost before the first phase; nothing where it lost none."""
    facts = next((end.facts for end in evidence.checkpoints if "removed_layers" in end.facts), None)
    if facts is None or evidence.recipe.prune is None:
        return []
    gone = str(facts["removed_layers"]).replace(" ", ", ")
    how = {
        "lowest": "change hidden states least ([block influence](https://arxiv.org/abs/2403.03853))",
        "block": "turn hidden states least together ([Gromov et al. 2024](https://arxiv.org/abs/2403.17887))",
    }[evidence.recipe.prune.choose]
    return [f"{facts['layers']} layers of the base model are left: without {gone}, counted from 0, which {how}."]


def _phase(phase: Phase, evidence: Evidence) -> str:
    """Say in a sentence what a phase trained, on what, and what it was solved for or how it stepped."""
    optimizer = phase.optimizer
    tuning = phase.tuning.kind.replace("_", " ")
    of, shares = "rows" if phase.mixes_rows else "steps", phase.shares(evidence.prepared)
    parts = [f"`{name}`" if share == 1.0 else f"`{name}` ({share:.0%} of the {of})" for name, share in shares.items()]
    objectives = dict.fromkeys(phase.objective_of(evidence.recipe.datasets[name].task).kind for name in phase.parts)
    minimised = ", ".join(objectives).replace("_", " ")
    start = "from the base model again, " if phase.start else ""
    trained = f"**{phase.name}**: {start}{minimised} on {' and '.join(parts)}, {tuning}"
    trained += "".join(
        _beside(phase, name, companion) for name, companion in evidence.companions.get(phase.name, {}).items()
    )
    if not phase.tuning.takes_steps:
        facts = next((end.facts for end in evidence.trained if end.phase == phase.name), {})
        return f"{trained} ({phase.tuning.solution(facts)})."
    return (
        f"{trained}; {optimizer.title}, learning rate {optimizer.learning_rate:g} ({optimizer.schedule}), batches of "
        f"{optimizer.batch_words}, {optimizer.epochs:g} {'epoch' if optimizer.epochs == 1 else 'epochs'}."
    )


def _beside(phase: Phase, name: str, companion: FoundModel | Checkpoint) -> str:
    use = "with scores of" if name in phase.scores else "on answers of"
    how = "beside the frozen" if name in phase.companions else f"{use} the frozen"
    return f", {how} {code(name)} ({code(called(companion))}, weights `{companion.weights[:12]}`)"


def _interpolation(evidence: Evidence) -> str:
    chosen = evidence.selection.chosen
    if evidence.onto and chosen.alpha is not None:  # as an adapter it is a place between that model and itself over it
        return (
            f"Published is {chosen.alpha:g} times the adapter of {code(evidence.checkpoints[-1].phase)}, put over "
            f"{code(called(evidence.onto))}, which it was not trained over. This is {METHODS['graft'].paper}."
        )
    if chosen.alpha is not None:
        return (
            f"Published are the weights at alpha {chosen.alpha:g} of the way from the end of "
            f"{code(chosen.start.phase)} (alpha 0) to the end of {code(chosen.end.phase)} (alpha 1). {_paper(chosen)}"
        )
    if _is_merged(chosen):
        parts = ", ".join(code(part.phase) for part in chosen.parts)
        return f"Published is a merge ({code(chosen.name)}) of {parts}. {_paper(chosen)}"
    return f"Published are the weights of {code(chosen.parts[0].phase if chosen.mixes else chosen.end.phase)}."


def _paper(chosen: Candidate) -> str:
    """Name the method of a mix, and say what of it was measured and not mixed."""
    measured = chosen.statistics
    return " ".join(
        [
            *([f"This is {chosen.merge.paper}."] if chosen.merge else []),
            *(
                [f"Its BatchNorm statistics were measured on {counted(measured.rows, 'training row')}."]
                if measured
                else []
            ),
        ]
    )


def _data(prepared: Mapping[str, PreparedDataset]) -> list[list[str]]:
    truncates = any(KINDS[data.kind].modality == "text" for data in prepared.values())
    header = ["dataset", "train", "validation", "test", "rows in", "dropped", "of them leaked"]
    return [header + ["truncated"] * truncates] + [
        [
            name,
            *(str(data.splits[split].rows if split in data.splits else 0) for split in ("train", "validation", "test")),
            str(data.ledger.rows_in),
            str(sum(data.ledger.dropped.values())),
            str(data.leaked),
            *([str(sum(facts.truncated for facts in data.splits.values()))] if truncates else []),
        ]
        for name, data in sorted(prepared.items())
    ]


def _personal_data(evidence: Evidence) -> list[str]:
    """Say what of the rows looked like personal data, and what the recipe did with it; maybe nothing."""
    rows = [
        [name, column, kind, str(count), evidence.recipe.datasets[name].personal_data.action(column)]
        for name, raw in sorted(evidence.raw.items())
        for column, kinds in sorted((raw.personal_data or {}).items())
        for kind, count in sorted(kinds.items())
    ]
    if not rows:
        return []
    return [
        "### Personal data in the rows, by pattern",
        table([["dataset", "column", "kind", "matches", "asked"], *rows]),
    ]


def _read(name: str, format: Format, data: PreparedDataset) -> str:
    """Say what the model saw of a row."""
    if reads_text(format):
        beyond = "a longer one is read in windows" if format.reads_windows else "what follows in a longer one is unseen"
        return f"texts of at most {format.max_tokens} tokens (`{name}`); {beyond}"
    sizes = [
        f"{one.width} x {one.height} pixels"
        for one in inputs_in(split_file(data.path, REPORT))
        if isinstance(one, Pixels)
    ]
    return f"images of {sizes[0]} (`{name}`), to which its image processor resizes" if sizes else f"`{name}`"


def _limits(recipe: Recipe, prepared: Mapping[str, PreparedDataset], selection: Selection) -> Iterator[str]:
    """Yield what bounds the model: labels, training data, what was not measured, the smallest test split."""
    for task in recipe.tasks or (None,):
        labels = selection.chosen.end.of_task(task).labels
        if labels:
            what, who = _kind(recipe.of_task(task)).answers, "It" if task is None else f"Task `{task}`"
            yield f"{who} knows {counted(len(labels), 'label')} and answers {what}: {escaped(', '.join(labels))}."
    for name in recipe.training_datasets():
        format = recipe.datasets[name].format
        yield f"It was trained on {_read(name, format, prepared[name])}."
        if format.may_be_unanswerable:
            yield (
                "It says that there is no answer by its first token, `[CLS]`: where the sum of that token's two logits "
                "is above the best text's by more than the metric's `null_score_diff_threshold`."
            )
    if not any(evaluation.role == "shifted" for evaluation in recipe.evaluations.values()):
        yield "It was not measured on rows from elsewhere than its training data; expect worse there."
    if not any(evaluation.role == "retained" for evaluation in recipe.evaluations.values()):
        yield "What the base model could do before and this one cannot was not measured."
    smallest = min((data.splits[REPORT].rows, name) for name, data in prepared.items() if REPORT in data.splits)
    rows = counted(smallest[0], "row")
    yield f"The smallest test split is `{smallest[1]}` with {rows}; the intervals say what that is worth."
