"""Find the models that stand beside the one that is trained: of companions, siblings, metrics, adapters' bases."""

from collections.abc import Mapping, Sequence

from flows.run.values import Data, whole
from ftlib.errors import ModelError
from ftlib.evaluation.reward_models import weights_of
from ftlib.merging.siblings import find_sibling, named_apart
from ftlib.models.adapter import Bases, find_any
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.companion import as_read_by, check_companion
from ftlib.models.reference import ModelRef
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.training.phase import ANSWERS, CRITIC, Phase
from ftlib.workspace import Workspace


def bases(recipe: Recipe, work: Workspace) -> Bases:
    """Say where the models that adapters stand on are looked for: versions, in the recipe's registry."""
    return Bases(version=lambda spec: ModelRegistry(recipe.registry_store()).folder_of(spec, work.root / "bases"))


def find_asked(recipe: Recipe) -> None:
    """Look for the models that metrics ask. Raises ModelError, behind the metric's name, for one that is not there."""
    for name, evaluation in recipe.evaluations.items():
        for metric in evaluation.metrics:
            try:
                weights_of(metric.asks)
            except ModelError as error:
                raise ModelError(f"evaluations.{name}: {metric.name!r}: {error}") from error


def found_companions(recipe: Recipe, work: Workspace, model: FoundModel) -> dict[str, dict[str, FoundModel]]:
    """Find the phases' companions that are models from elsewhere, by phase and name, in any form. Raises ModelError."""

    def find(phase: Phase, name: str, ref: ModelRef) -> FoundModel:
        companion = find_any(ref, bases(recipe, work))
        return companion if _reads_texts(phase, name) else as_read_by(companion, model)

    return {
        phase.name: {
            name: find(phase, name, companion.model) for name, companion in phase.beside.items() if companion.model
        }
        for phase in recipe.phases
        if phase.beside
    }


def _reads_texts(phase: Phase, name: str) -> bool:
    """Say whether a companion reads texts, by a tokenizer of its own: a reward model or a critic."""
    return name == CRITIC or (name in phase.companions and getattr(phase.objective, "writes", False))


def check_companions(
    recipe: Recipe, model: FoundModel, elsewhere: Mapping[str, Mapping[str, FoundModel]], labels: tuple[str, ...] = ()
) -> None:
    """Raise ModelError, before anything trains, for a companion from elsewhere that cannot be asked the model's rows.

    `labels` are those that training sees, as soon as they are known.
    """
    for phase in recipe.phases:
        found, solves = elsewhere.get(phase.name, {}), phase.tuning.asks(recipe.kind(phase))
        answers = labels if phase in recipe.answering_phases else ()
        for name, companion in found.items():
            if _reads_texts(phase, name):
                continue
            where = "answers" if name == ANSWERS else f"{'scores' if name in phase.scores else 'companions'}.{name}"
            apart = name == ANSWERS or name in solves  # has no head that answers as the model's does
            check_companion(f"phases[{phase.name}].{where}", companion, model.tokenizer, () if apart else answers)


def found_siblings(recipe: Recipe, work: Workspace) -> list[Checkpoint]:
    """Find the checkpoints from elsewhere that the interpolation takes in. Raises ModelError or StorageError."""
    if not recipe.interpolation.siblings:
        return []
    registry = ModelRegistry(recipe.registry_store())
    found = [find_sibling(spec, registry, work.root / "versions") for spec in recipe.interpolation.siblings]
    return named_apart(found, recipe.phases[-1].name)


def found_onto(recipe: Recipe, work: Workspace) -> FoundModel | None:
    """Find the model that what training did is carried to, where the interpolation does so. Raises ModelError."""
    onto = recipe.interpolation.carried_to
    return find_any(onto.model, bases(recipe, work)) if onto else None


def with_ends(r: Recipe, phase: Phase, data: Data | None, aside: Sequence[Checkpoint | None]) -> Data | None:
    """Add what a phase asks of phases that ended before one that starts from the base; None where that is not made.

    `aside` has the checkpoints of those phases.
    """
    begins = max((i for i, one in enumerate(r.phases[: r.phases.index(phase) + 1]) if one.start), default=0)
    before = {one.name for one in r.phases[:begins]}
    asked = {name: str(one.phase) for name, one in phase.beside.items() if one.phase in before}
    made = whole(aside)
    if data is None or not asked or made is None:
        return None if asked else data
    ends = {end.phase: end for end in made}
    beside = {**data.companions.get(phase.name, {}), **{name: ends[end] for name, end in asked.items()}}
    return data.model_copy(update={"companions": {**data.companions, phase.name: beside}})


def beside_phase(
    phase: Phase, trail: Sequence[Checkpoint], elsewhere: Mapping[str, FoundModel | Checkpoint]
) -> dict[str, FoundModel | Checkpoint]:
    """Return the frozen models that have a part in a phase, by name: models that were found, or earlier phases' ends.

    `trail` has the checkpoints that come before, and may have more; ends that it has not are `elsewhere`. An end that
    was rounded for the phase to start from anchors it as it was rounded: the policy is kept near that adapter, and not
    near what rounding did.
    """
    ends = {end.phase: end for end in trail}
    beside = {name: elsewhere.get(name) or ends[str(companion.phase)] for name, companion in phase.beside.items()}
    anchors: Sequence[str] = getattr(phase.objective, "anchors", ())
    return beside | {name: as_rounded(beside[name], phase, trail) for name in anchors}


def as_rounded(anchor: FoundModel | Checkpoint, phase: Phase, trail: Sequence[Checkpoint]) -> FoundModel | Checkpoint:
    """Return the checkpoint that was made of a model, rounded, for a phase to start from; the model, if none was."""
    end = next((end for end in trail if end.phase == phase.name), trail[-1])
    begins = end.parent if end.phase == phase.name else end.weights
    made = (one for one in trail if one.weights == begins and one.parent == anchor.weights)
    rounded = (one for one in made if phase.tuning.quantization and not one.trained_parameters)
    return next(rounded, anchor)
