"""What the rule that chooses reads in vain, and which points it cannot choose from."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.config import BatchKind
from ftlib.evaluation.measured import KL_TO_START
from ftlib.evaluation.selection import SMOOTHING, Select
from ftlib.evaluation.smoothing import LEAST
from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts
from ftlib.training.tuning import tunings
from ftlib.wording import these


def select_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which metrics of rule, gates and comparison are measured nowhere, and which fields the rule does not read."""
    select = recipe.select
    paths = {"select.by": select.by, **({"select.subject_to": select.subject_to} if select.subject_to else {})}
    paths |= {"retrain.compare": recipe.retrain.compare} if recipe.retrain.compare else {}
    paths |= {f"select.gates[{i}].metric": gate.metric for i, gate in enumerate(select.gates)}
    paths |= {f"select.plus[{i}]": path for i, path in enumerate(select.plus)}
    have = [f"{name}/{metric.name}" for name, e in recipe.evaluations.items() for metric in e.metrics]
    for where, path in paths.items():
        if path not in have:
            yield f"{where}: {path!r} is not measured; there are {these(have)}"
    if (select.rule in ("constrained", "knee")) != (select.subject_to is not None):
        wish = "remove it" if select.subject_to else "give it"
        yield f"select.subject_to: 'constrained' and 'knee' read it, no other rule; the rule is {select.rule!r}: {wish}"
    # Not by `model_fields_set`: a recipe on record says every field.
    if select.max_drop != Select.model_fields["max_drop"].default and select.rule != "constrained":
        yield f"select.max_drop: 'constrained' reads it, no other rule; the rule is {select.rule!r}: remove it"
    if select.rule == "knee" and select.by == select.subject_to:
        yield f"select: a knee lies between two metrics, and by and subject_to are both {select.by!r}"
    if select.by in select.plus:
        yield f"select.plus: {select.by!r} is select.by already, with weight 1; leave it out"
    yield from _fixed_alpha_misfits(recipe)
    yield from _budget_misfits(recipe)
    yield from _line_misfits(recipe)
    for i, gate in enumerate(select.gates):
        if (gate.at_least is None) == (gate.at_most is None):
            yield f"select.gates[{i}]: give exactly one of at_least and at_most"


def _fixed_alpha_misfits(recipe: RecipeParts) -> Iterator[str]:
    alpha = recipe.select.alpha
    if (recipe.select.rule == "fixed") != (alpha is not None):
        yield "select: rule 'fixed' and alpha go together; give both or neither"
    elif alpha is not None:
        method = recipe.interpolation
        if alpha not in method.places:
            yield (
                f"select.alpha: no candidate will lie at {alpha:g}; the interpolation has "
                f"{', '.join(f'{a:g}' for a in method.places) or f'none: {method.kind!r}'}"
            )


def _budget_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why no divergence can be held within a budget."""
    select = recipe.select
    asked = select.divergence is not None and select.at_most is not None
    if select.rule != "within":
        for name in ("divergence", "at_most"):
            if getattr(select, name) is not None:
                yield f"select.{name}: 'within' reads it, no other rule; the rule is {select.rule!r}: remove it"
        return
    if not asked:
        yield "select: rule 'within' needs both divergence (evaluation/kl_to_start) and at_most, in nats"
    if not recipe.interpolation.mixes:
        kind = recipe.interpolation.kind
        yield f"select: 'within' compares candidates with the start, and interpolation {kind!r} has none"
    if recipe.interpolation.start is not None:
        yield (
            f"select: 'within' budgets the whole way from where the phase started, and interpolation.start is snapshot "
            f"{recipe.interpolation.start!r}, which has gone a part of it; leave start out, or use another rule"
        )
    if select.divergence is None:
        return
    name, _, metric = select.divergence.partition("/")
    have = {
        evaluation: KINDS[recipe.datasets[one.dataset].format.yields].diverges_by
        for evaluation, one in recipe.evaluations.items()
        if one.dataset in recipe.datasets
    }
    able = [f"{evaluation}/{KL_TO_START}" for evaluation, by in have.items() if by is not None]
    if metric != KL_TO_START or (name in recipe.evaluations and name not in have) or have.get(name) is None:
        yield (
            f"select.divergence: {select.divergence!r} is no divergence of an evaluation whose answers exclude each "
            f"other; there {'are ' + these(able) if able else 'is none'}"
        )


def _line_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why there is no curve along alpha, or no alpha for each row."""
    select, method = recipe.select, recipe.interpolation
    if select.smoothed and select.rule not in SMOOTHING:
        yield (
            f"select.smoothed: {these(sorted(SMOOTHING))} go by the curve, no other rule; the rule is "
            f"{select.rule!r}: remove it"
        )
    elif select.smoothed and not method.is_path:
        yield (
            f"select.smoothed: interpolation {method.kind!r} has not one candidate at each alpha, so a score has no "
            "curve along it; use wise_ft, or remove it"
        )
    elif select.smoothed and len(method.places) < LEAST:
        yield (
            f"select.smoothed: a curve along alpha needs at least {LEAST} candidates, ends included; interpolation "
            f"{method.kind!r} has {len(method.places)}: give it more alphas"
        )
    if select.rule != "dawin":
        return
    if not method.is_path:
        yield (
            f"select: 'dawin' chooses an alpha, and interpolation {method.kind!r} has not one candidate at each; use "
            "wise_ft"
        )
    evaluation = recipe.evaluations.get(select.by.partition("/")[0])
    dataset = recipe.datasets.get(evaluation.dataset) if evaluation else None
    if dataset and KINDS[dataset.format.yields].diverges_by != "row":
        yield (
            f"select: 'dawin' reads answers of one label per row, and those to {dataset.format.yields!r} rows, as in "
            f"{select.by.partition('/')[0]!r}, are not; use another rule"
        )


def interpolation_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why the interpolation cannot reach its points with these phases."""
    if not recipe.interpolation.mixes or not recipe.phases:
        return
    from_start = recipe.interpolation.start is None
    if from_start and (untrained := [task for task in recipe.tasks or (None,) if _head_is_new(recipe, task)]):
        last = recipe.phases[-1]
        solving = [] if recipe.tasks else _solving(last.objective.needs)
        head = " or ".join(f"{kind} phase" for kind in solving) or "phase that trains the head"
        start = "the base model" if len(recipe.chain) == 1 else "a new head"
        yield (
            f"interpolation: {recipe.interpolation.kind!r} starts from weights whose head means something, but "
            f"phase {last.name!r} starts from {start}{f' of {these(filter(None, untrained))}' if recipe.tasks else ''}"
            f": put a {head} before it (LP-FT)"
        )
    method = recipe.interpolation
    if len(method.seeds) + len(method.siblings) < method.least:
        yield (
            f"interpolation: {method.kind!r} needs at least {method.least} more fine-tune beside the last phase's: "
            "give it seeds, which train that phase again, or siblings"
        )
    if len({recipe.seed, *method.seeds}) <= len(method.seeds):
        yield f"interpolation.seeds: {these(map(str, method.seeds))} and the recipe's {recipe.seed} must all differ"
    if (last := recipe.phases[-1].tuning).moves_head_only:
        yield f"interpolation: the last phase is a {last.kind}, which moves the head only; add a phase or use kind: off"


def _head_is_new(recipe: RecipeParts, task: str | None) -> bool:
    """Say whether the last phase is the first that trains the head, or that of a task."""
    mine = recipe.of_task(task)
    phases = mine.answering_phases if recipe.has_training_datasets else mine.phases
    if [phase.name for phase in phases] != [recipe.phases[-1].name]:  # or an earlier one trained it
        return False
    return not KINDS[phases[0].objective.needs].answers_untrained


def _solving(kind: BatchKind) -> list[str]:
    """Return the tunings that give a model a head for a kind of batch, and move nothing else."""
    return tunings(lambda tuning: tuning.moves_head_only and (tuning.fits is None or kind in tuning.fits))
