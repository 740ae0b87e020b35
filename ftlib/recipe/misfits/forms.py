"""What dense weights, adapters and rounded weights do not allow."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.models.checkpoint import Form, Quantization
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import Phase
from ftlib.training.tuning import tunings
from ftlib.training.tuning.by_peft import GOES_ON
from ftlib.wording import these


def adapter_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why the phases and the interpolation cannot leave an adapter to publish beside the merged model."""
    *before, last = recipe.chain
    method = recipe.interpolation
    if not last.tuning.makes_adapter:
        making = " or ".join(map(repr, tunings(lambda tuning: tuning.makes_adapter)))
        yield f"publish.adapter: tuning {last.tuning.kind!r} of the last phase makes none; use {making} or remove it"
    elif last.tuning.quantization:
        yield (
            f"publish.adapter: {last.tuning.kind!r} trains over weights that are rounded to four bits, and the adapter "
            "would be put over others; remove it, or publish the adapter alone by tuning.keep: adapter"
        )
    elif method.mixes and not last.tuning.adapter_scales:
        yield "publish.adapter: scaling a DoRA adapter gives another model than interpolation; use interpolation: off"
    if moved := [phase.name for phase in before if not phase.tuning.moves_head_only]:
        yield (
            f"publish.adapter: an adapter must stand on the base model, and {these(moved)} moved it; only "
            f"{' or '.join(tunings(lambda tuning: tuning.moves_head_only))} phases may come before"
        )
    if method.mixes and not method.scales_adapter:
        yield (
            f"publish.adapter: scaling it gives what lies between the two ends alone; interpolation {method.kind!r} "
            "must be 'wise_ft', 'lines', 'blocks' or 'off'"
        )


def end_form(recipe: RecipeParts, start: Form, phases: int | None = None) -> Form:
    """Return the form that the phases, or the first of them, end in, given that of the base model."""
    form = start
    for phase in recipe.phases[:phases]:
        form = phase.tuning.leaves or (start if phase.start else form)
    return form


def form_misfits(recipe: RecipeParts, start: Form) -> Iterator[str]:
    """Say what cannot be interpolated or published for the forms that phases end in, given that of the base model."""
    yield from _over_adapter_misfits(recipe, start)
    if recipe.prune and start == "adapter":
        yield "prune: an adapter stands on all layers of its base; start from a dense model"
    anew = bool(recipe.phases and recipe.phases[-1].start)
    before, end = start if anew else end_form(recipe, start, phases=-1), end_form(recipe, start)
    method = recipe.interpolation
    if (before, end) == ("adapter", "dense") and method.mixes:
        yield (
            f"interpolation: {method.kind!r} mixes dense weights, and phase {recipe.phases[-1].name!r} starts from an "
            "adapter: give it tuning.keep: adapter, or use kind: off"
        )
    if end == "dense" or not recipe.phases:
        return
    last = recipe.phases[-1]
    where = f"phases[{last.name}].tuning: ends in an adapter"
    instead = ", or set keep: merged" if last.tuning.merges else ""
    if method.mixes and not last.tuning.adapter_scales:
        yield f"{where} that cannot be scaled; use interpolation: off{instead}"
    elif method.mixes and last.tuning.merges and not method.adds_up:
        yield (
            f"{where}, and adapters are added up; interpolation {method.kind!r} must be 'wise_ft', 'lines', 'blocks', "
            "'soup', 'task_arithmetic' or 'off', or set keep: merged"
        )
    if recipe.publish.fisher:
        yield f"publish.fisher: is of the weights themselves, and {last.name!r} ends in an adapter{instead}"
    if recipe.publish.adapter:
        yield f"publish.adapter: {last.name!r} ends in an adapter, so the version is one; remove it"
    if recipe.prune or recipe.added_tokens:
        less = "without some layers" if recipe.prune else "with more tokens"
        yield f"{where} over a model {less}, which nobody else has; set keep: merged"
    if moved := [phase.name for phase in recipe.chain if phase.tuning.leaves == "dense"]:
        remedy = "set keep: merged" if last.tuning.merges else "let it be the only phase, or follow a linear_probe"
        yield f"{where} over what {these(moved)} made of the base model, which nobody else has; {remedy}"


def _over_adapter_misfits(recipe: RecipeParts, start: Form) -> Iterator[str]:
    """Say which phases start from an adapter that they can neither merge nor go on with, or give a head."""
    for i, phase in enumerate(recipe.phases if recipe.has_training_datasets else ()):
        before = start if phase.start else end_form(recipe, start, phases=i)
        if recipe.takes_new_head(phase) and before == "adapter":
            remedy = (
                "the base model is an adapter: start from dense weights"
                if phase.start or not i
                else f"{recipe.phases[i - 1].name!r} ends in an adapter: set its tuning.keep to merged"
            )
            yield f"phases[{phase.name}]: needs a head of its own, which dense weights are given, and {remedy}"
    below: Phase | None = None
    for phase in recipe.phases:
        tuning = phase.tuning
        below = None if phase.start else below
        where = f"phases[{phase.name}].tuning"
        if below and tuning.leaves == "dense" and not below.tuning.merges:
            yield (
                f"{where}: {tuning.kind!r} starts from the adapter of {below.name!r}, and {below.tuning.kind!r} has no "
                "merged form; use the same tuning, or put it last"
            )
        elif below and tuning.leaves == "adapter" and below.tuning.makes not in tuning.takes_over:
            yield (
                f"{where}: {tuning.kind!r} starts from the adapter of {below.name!r} and cannot go on with one of "
                f"{below.tuning.kind!r}; use {GOES_ON.get(below.tuning.makes, below.tuning.kind)}, or start from the "
                "base"
            )
        if tuning.leaves:
            below = phase if tuning.leaves == "adapter" else None


def quantization_misfits(recipe: RecipeParts, form: Form, rounded: Quantization | None = None) -> Iterator[str]:
    """Say which phases would train in four bits over an adapter whose base is not rounded so.

    `form` is that of the base model, and `rounded` how what it stands on is rounded.
    """
    for phase in recipe.phases:
        tuning, where = phase.tuning, f"phases[{phase.name}].tuning: {phase.tuning.kind!r}"
        if form == "adapter" and tuning.quantization and tuning.leaves != "adapter":
            yield f"{where} starts from an adapter, which it would merge; set keep: adapter, which goes on with it"
        elif form == "adapter" and tuning.quantization and tuning.quantization != rounded:
            yield (
                f"{where} holds the base in {tuning.quantization}, and goes on with an adapter that was trained over "
                f"{rounded or 'unrounded weights'}; use the tuning that the adapter was trained with"
            )
        if tuning.leaves == "adapter" and form == "dense":
            rounded = tuning.quantization
        form = tuning.leaves or form
