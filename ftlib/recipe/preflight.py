"""What must be true of the registry and of the prepared datasets together, before anything trains."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ftlib.config import REPORT, SELECTION, Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.identity import places, published
from ftlib.data.iob2 import completed
from ftlib.data.prepared import split_file
from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.evaluation.room import check_room
from ftlib.evaluation.selection import UNMEASURED
from ftlib.kinds.kind import KINDS
from ftlib.merging.methods.kernel import SENSIBLE
from ftlib.models.checkpoint import Checkpoint, Form, FoundModel, Quantization
from ftlib.models.folder import IMAGE_PROCESSOR, TOKENIZER_FILES, read_config
from ftlib.models.pipelines import check_pipeline
from ftlib.models.pruning import stack_of
from ftlib.models.with_diffusers import ONE_MODEL, is_pipeline
from ftlib.recipe.misfits.forms import end_form, form_misfits, quantization_misfits
from ftlib.recipe.recipe import Recipe
from ftlib.registry import probe
from ftlib.registry.reading import RegistryReader
from ftlib.registry.signing import Signer
from ftlib.training.principles import read_principles
from ftlib.wording import counted, some
from ftlib.workspace import Workspace

NO_NAMES: Mapping[str, Sequence[str]] = MappingProxyType({})

_LEARNT: tuple[Split, ...] = ("train", SELECTION)
"""What a phase learns from, and what watches it."""


def check_modality(recipe: Recipe, model: Path, called: str = "") -> None:
    """Raise RecipeError if the model in a folder reads text and the rows are images, or the other way round.

    What makes its inputs tells: an image processor or a tokenizer. A folder with neither is for others to refuse.
    The model is `called` as the recipe does, if nothing else is said.
    """
    if _draws(recipe, model, called):
        return
    _check_halves(recipe, model, called)
    modalities = {"images": [IMAGE_PROCESSOR], "text": TOKENIZER_FILES}
    reads = {modality for modality, files in modalities.items() if any((model / name).is_file() for name in files)}
    for name, dataset in recipe.datasets.items():
        kind = KINDS[dataset.format.yields]
        if reads and kind.modality not in reads:
            type = read_config(model).get("model_type", "nameless")
            raise RecipeError(
                f"{called or f'model.path: {recipe.model.path}'} is a {type!r} model, which reads {' and '.join(reads)}"
                f", but the rows of dataset {name!r} are {kind.modality} ({kind.name!r}); give a model that "
                f"transformers loads as {kind.auto_class}, with its "
                f"{IMAGE_PROCESSOR if kind.modality == 'images' else 'tokenizer'}, or another format"
            )
    _check_families(recipe, model, called)


def _check_families(recipe: Recipe, model: Path, called: str) -> None:
    """Raise RecipeError for a model of a family that cannot be taught what the rows are."""
    type = str(read_config(model).get("model_type", "nameless"))
    for name, dataset in recipe.datasets.items():
        kind = KINDS[dataset.format.yields]
        if (families := kind.outcomes.families) and type not in families:
            raise RecipeError(
                f"{called or f'model.path: {recipe.model.path}'} is a {type!r} model, but the rows of dataset {name!r} "
                f"({kind.name!r}) are learnt by {' or '.join(map(repr, families))} alone; give one of these"
            )


def _draws(recipe: Recipe, model: Path, called: str) -> bool:
    """Say whether a folder's model draws images. Raises RecipeError where the rows are not what it learns from."""
    draws = is_pipeline(model) or read_config(model).get("model_type") == ONE_MODEL
    if is_pipeline(model):
        check_pipeline(model)
    for name, dataset in recipe.datasets.items():
        kind = KINDS[dataset.format.yields]
        if draws != (kind.predictor is not None and kind.predictor.draws):
            needs = "a model that reads them" if draws else "a folder of diffusers with a model_index.json"
            raise RecipeError(
                f"{called or f'model.path: {recipe.model.path}'} is {'a' if draws else 'no'} pipeline of diffusers, "
                f"but the rows of dataset {name!r} are {kind.name!r}; give {needs}, or another format"
            )
    return draws


def _check_halves(recipe: Recipe, model: Path, called: str) -> None:
    """Raise RecipeError for rows that a decoder alone is to go on with and a model of two halves, or the reverse."""
    config = read_config(model)
    has_both = bool(config.get("is_encoder_decoder"))
    for name, dataset in recipe.datasets.items():
        kind = KINDS[dataset.format.yields]
        if kind.language and kind.decodes != has_both:
            has, wants = ("an encoder-decoder", "causal models") if has_both else ("no encoder-decoder", "those alone")
            others = sorted(one.name for one in KINDS.values() if one.language and one.decodes == has_both)
            raise RecipeError(
                f"{called or f'model.path: {recipe.model.path}'} is {has} ({config.get('model_type', 'nameless')}), "
                f"and format {dataset.format.kind!r} of dataset {name!r} is for {wants}: use a format that yields "
                f"{' or '.join(map(repr, others))}, or a model that transformers loads as {kind.auto_class}"
            )


def check_parts(recipe: Recipe, prepared: Mapping[str, PreparedDataset]) -> None:
    """Raise DataError for a part of a phase that has nothing to learn from; before anything is trained."""
    for phase in recipe.phases:
        for name in phase.parts:
            facts = prepared[name].splits["train"]
            if not facts.supervised:
                raise DataError(
                    f"phases[{phase.name}]: dataset {name!r} has {counted(facts.rows, 'training row')}"
                    f"{' with nothing to learn' if facts.rows else ''}; give it more, or leave it out"
                )


def check_tasks(
    recipe: Recipe, prepared: Mapping[str, PreparedDataset], names: Mapping[str, Sequence[str]] = NO_NAMES
) -> dict[str, tuple[str, ...]]:
    """Return the labels of every task, as `check_labels` does for one, by its name; none without tasks.

    `names` are those of a version that is to be replaced, by task.
    """
    return {task: check_labels(recipe.of_task(task), prepared, names.get(task, ())) for task in recipe.tasks}


def check_labels(recipe: Recipe, prepared: Mapping[str, PreparedDataset], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the labels that training sees, sorted; empty for a recipe without labels.

    Of a label's spellings the most frequent in the training datasets is published, unless a version that is to be
    replaced has it among its `names`; if these are all the same labels, they keep that version's order.

    Raises DataError if an evaluation has nothing to measure on, if there is one class only, or if an evaluation holds
    labels that training never sees: no model of this run could get such a row right. Raises RecipeError if a phase's
    tuning or objective cannot be asked for these labels.
    """
    _check_measurable(recipe, prepared)
    if recipe.tasks:
        return ()  # each has its own
    training = recipe.answering_datasets()
    if not all(KINDS[prepared[name].kind].labeled for name in training):
        return ()
    counts: Counter[str] = Counter()
    for name in training:
        for label, rows in prepared[name].splits["train"].labels.items():
            counts.update(prepared[name].spellings.get(label, {label: rows}))
    seen = tuple(sorted({*published(counts, names).values()}))
    if any(KINDS[prepared[name].kind].whole_tags for name in training):
        seen = completed(seen)
    if len(seen) < KINDS[recipe.answering_kind].least_labels:
        labels = f"{counted(len(seen), 'label')} ({', '.join(seen)})" if seen else "no label"
        raise DataError(f"training rows have {labels}; a classifier needs at least two")
    _check_asked(recipe, prepared, seen)
    for phase in recipe.answering_phases:
        phase.tuning.check_labels(seen)
        getattr(phase.objective, "check_labels", lambda _: None)(seen)
    return tuple(names) if sorted(names) == list(seen) else seen


def _check_measurable(recipe: Recipe, prepared: Mapping[str, PreparedDataset]) -> None:
    for name, evaluation in recipe.evaluations.items():
        uses: dict[Split, str] = {SELECTION: "selection", REPORT: "the report"}
        for split, use in uses.items():
            if prepared[evaluation.dataset].splits[split].rows == 0:
                raise DataError(
                    f"evaluations.{name}: dataset {evaluation.dataset!r} has no {split} rows, but {use} is measured on "
                    "them; give it more rows or a larger share in its split"
                )


def _check_asked(recipe: Recipe, prepared: Mapping[str, PreparedDataset], seen: Sequence[str]) -> None:
    measured: tuple[Split, ...] = (SELECTION, REPORT)
    asked = [(f"evaluations.{name}", one.dataset, measured) for name, one in recipe.evaluations.items()]
    train: tuple[Split, ...] = ("train",)
    for phase in recipe.answering_phases:
        if phase.penalty and phase.penalty.keeps:
            where = f"phases[{phase.name}].penalty.datasets"
            asked += [(f"{where}: {name!r}", name, train) for name in phase.penalty.keeps.datasets]
    for where, dataset, of in asked:
        labels = sorted({label for split in of for label in prepared[dataset].splits[split].labels})
        unseen = [label for label, index in zip(labels, places(labels, seen), strict=True) if index is None]
        if unseen:
            raise DataError(
                f"{where}: labels that training never sees: {some(unseen)}; training has {some(seen)}: "
                "map or drop these rows, or train on some of them"
            )


def task_spelling_notes(
    recipe: Recipe, prepared: Mapping[str, PreparedDataset], labels: Sequence[str], tasks: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Say what `spelling_notes` does of the labels of every task, or of those that all rows share."""
    if not tasks:
        return spelling_notes(prepared, labels)
    of_task = {task: {name: prepared[name] for name in recipe.of_task(task).datasets} for task in tasks}
    return tuple(words for task, mine in of_task.items() for words in spelling_notes(mine, tasks[task]))


def spelling_notes(
    prepared: Mapping[str, PreparedDataset], labels: Sequence[str], called: str = "published as"
) -> tuple[str, ...]:
    """Say of every label that is written in other ways than its name which they are, and how it is `called`."""
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for dataset, data in sorted(prepared.items()):
        kept = sum((Counter(facts.labels) for facts in data.splits.values()), Counter[str]())
        for name, index in zip(data.labels, places(data.labels, labels), strict=True):
            for spelling, rows in data.spellings.get(name, {name: kept[name]}).items():
                if index is not None and spelling != labels[index]:
                    spellings[labels[index]].append(f"{spelling!r} ({counted(rows, 'row')} of {dataset})")
    return tuple(
        f"label {name!r} is also written {', '.join(others)}: one label, {called} {name!r}"
        for name, others in sorted(spellings.items())
    )


def audit_notes(recipe: Recipe, prepared: Mapping[str, PreparedDataset]) -> tuple[str, ...]:
    """Say what every dataset that trains teaches a language model, and what is wrong with its rows."""
    return tuple(
        f"{name}: {words}"
        for name in sorted(recipe.training_datasets())
        if (audit := prepared[name].audit).rows
        for words in audit.notes()
    )


def rare_label_notes(recipe: Recipe, prepared: Mapping[str, PreparedDataset]) -> tuple[str, ...]:
    """Say of every dataset that trains which labels have too few rows for each of its splits that has any.

    Such a label is learned and never measured, or measured on nothing; nothing fails, so nobody would notice.
    """
    return tuple(filter(None, (_rare_labels(name, prepared[name]) for name in sorted(recipe.training_datasets()))))


def _rare_labels(name: str, data: PreparedDataset) -> str:
    splits = [split for split, facts in data.splits.items() if facts.labels]
    rows = sum((Counter(facts.labels) for facts in data.splits.values()), Counter[str]())
    rare = sorted((label for label in rows if rows[label] < len(splits)), key=lambda label: (rows[label], label))
    if not rare:
        return ""
    return (
        f"{counted(len(rare), 'label')} of dataset {name!r} cannot be in each of {', '.join(splits)}, for lack of "
        f"rows: {some([f'{label!r} has {rows[label]}' for label in rare])}; add rows, map these labels to others, or "
        f"set datasets.{name}.limits.rows_per_label, which refuses them"
    )


def check_rule(recipe: Recipe, prepared: Mapping[str, PreparedDataset]) -> None:
    """Raise DataError if the rule goes by a metric that its rows cannot define; before anything is trained.

    It looks at how many rows have each label. What only the rows' texts or scores tell is found when it is measured.
    """
    rule = recipe.select
    for path in (rule.by, *filter(None, [rule.subject_to]), *rule.plus) if rule.rule not in UNMEASURED else ():
        name, metric = recipe.metric(path)
        facts = prepared[recipe.evaluations[name].dataset].splits[SELECTION]
        if not metric.may_be_defined(facts.rows, facts.labels):
            raise DataError(
                f"select: {path!r} is undefined on the {counted(facts.rows, f'{SELECTION} row')} of evaluation "
                f"{name!r}: {metric.undefined_where}; add such rows, or choose by another metric"
            )


def check_forms(
    recipe: Recipe, start: Form, siblings: Sequence[Checkpoint] = (), quantization: Quantization | None = None
) -> None:
    """Raise RecipeError if what the phases end in, from a base model of this form, cannot be interpolated as asked.

    `siblings` are the checkpoints from elsewhere that are mixed with it; `quantization` is how what the
    base model stands on is rounded, where that is an adapter.
    """
    problems = [*form_misfits(recipe, start), *quantization_misfits(recipe, start, quantization)]
    end = end_form(recipe, start)
    keep = {"dense": "merged", "adapter": "adapter"}
    problems += [
        f"interpolation.siblings: {one.phase!r} is {_FORMS[one.form]}, and the last phase ends as {_FORMS[end]}; give "
        f"one that was trained with keep: {keep[end]}"
        for one in siblings
        if one.form != end
    ]
    if problems:
        raise RecipeError("\n".join(problems))


def check_apart(recipe: Recipe, apart: float) -> str:
    """Say how far the base lies from what its tuning is carried to. Raises RecipeError if that is too far."""
    onto = recipe.interpolation.carried_to
    assert onto
    said = f"{onto.model.path} lies {apart:.4f} from {recipe.model.path}, by sum |a - b| / (sum |a| + sum |b|)"
    if apart > onto.at_most_apart:
        raise RecipeError(
            f"interpolation.onto: {said}, and {onto.at_most_apart:g} is allowed: what one learns means little to the "
            "other; give the instruct model of this very base, or raise at_most_apart"
        )
    return f"{said}; grafts are sensible below {SENSIBLE:g}"


def check_principles(recipe: Recipe) -> None:
    """Raise RecipeError for a file of principles that is not there or holds none, or a checker of none of them."""
    for phase in recipe.phases:
        if phase.principles is None:
            continue
        where = f"phases[{phase.name}]."
        try:
            count = len(read_principles(phase.principles.file))
        except RecipeError as error:
            raise RecipeError(f"{where}{error}") from error
        if odd := sorted(number for number in phase.principles.checkers if not 1 <= number <= count):
            raise RecipeError(
                f"{where}principles.checkers: {odd[0]} is no place of a principle; {phase.principles.file} has "
                f"{count}, counted from 1"
            )


def check_rewards(recipe: Recipe) -> None:
    """Raise RecipeError for rewards, checkers and judges that cannot be asked on this machine, a line each.

    It imports the functions that they name, and asks nobody. Which models they ask is looked for by a run.
    """
    asked: dict[str, Sequence[str]] = {}
    for phase in recipe.phases:
        where, reward = f"phases[{phase.name}]", getattr(phase.objective, "reward", None)
        if reward is not None:
            asked[f"{where}.objective.reward"] = reward.misfits()
        for number, checker in phase.principles.checkers.items() if phase.principles else ():
            asked[f"{where}.principles.checkers.{number}"] = checker.misfits()
    for name, evaluation in recipe.evaluations.items():
        for metric in evaluation.metrics:
            asked[f"evaluations.{name}: {metric.name!r}"] = metric.misfits()
    if lines := [f"{where}: {line}" for where, misfits in asked.items() for line in misfits]:
        raise RecipeError("\n".join(lines))


def check_prune(recipe: Recipe, model: FoundModel) -> None:
    """Raise RecipeError for more layers to remove than the model has, ModelError for one without a stack of layers."""
    if recipe.prune and model.form == "dense":
        recipe.prune.number(stack_of(model.folder).depth)


_FORMS: Mapping[Form, str] = {"dense": "dense weights", "adapter": "an adapter"}


def check_writing(recipe: Recipe, prepared: Mapping[str, PreparedDataset], reads: Callable[[], int | None]) -> None:
    """Raise DataError if a model is to write, or to learn, more than it reads; before anything is trained."""
    for name, evaluation in recipe.evaluations.items():
        for split in (SELECTION, REPORT):
            file = split_file(prepared[evaluation.dataset].path, split)
            check_room(f"evaluations.{name}", evaluation.max_new_tokens, file, reads)
    for phase in recipe.phases:
        most = phase.answers.max_new_tokens if phase.answers else 0
        for name in phase.parts if most else ():
            for split in _LEARNT:
                check_room(f"phases[{phase.name}].answers", most, split_file(prepared[name].path, split), reads)


def check_prompts(recipe: Recipe, prepared: Mapping[str, PreparedDataset], start: Form, reads: int | None) -> None:
    """Raise RecipeError if a phase puts more before a row than the model has places for; before anything is trained.

    `reads` is how many tokens the base model reads, behind the prompt that it has itself if it is such an adapter.
    """
    if reads is None or start == "adapter":
        return
    for phase in recipe.phases:
        for name in {*phase.parts, *(evaluation.dataset for evaluation in recipe.evaluations.values())}:
            longest = max(facts.longest for facts in prepared[name].splits.values())
            if phase.tuning.places and longest + phase.tuning.places > reads:
                raise RecipeError(
                    f"phases[{phase.name}].tuning.virtual_tokens: {phase.tuning.places} before the longest row of "
                    f"dataset {name!r}, {longest} tokens, go beyond the {reads} that the model reads; lower it, or the "
                    "format's max_tokens"
                )


def check_registry(recipe: Recipe, work: Workspace) -> None:
    """Try the registry, and the key, before anything is trained for them.

    Raises StorageError if nothing can be published there, RecipeError for a key that cannot sign, or a registry in the
    work place.
    """
    if recipe.publish.sign_with:
        Signer(Path(recipe.publish.sign_with))
    store = recipe.registry_store()
    if work.store is not None and work.store.identity == store.identity:
        raise RecipeError(
            f"publish.to: {store.uri} is the work place of this run, and a registry's collector deletes what no "
            "version needs; give the registry a prefix of its own"
        )
    try:
        RegistryReader(store).check_apart()
        probe(store)
    except StorageError as error:
        raise StorageError(f"publish.to: nothing can be published to the registry {store.uri}: {error}") from error
