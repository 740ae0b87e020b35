"""Why what draws images cannot be trained, or published, as a recipe asks."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import Phase


def drawing_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why what draws images cannot be trained, or published, as a recipe asks; nothing of other recipes."""
    there = recipe.datasets
    drawn = [phase for phase in recipe.phases if any(name in there and _draws(recipe, name) for name in phase.parts)]
    if not drawn:
        return
    for phase in drawn:
        yield from _tuning_misfits(phase)
    compute = recipe.compute
    for field, asked, plain in (
        ("sharding", compute.sharding, "ddp"),
        ("activation_checkpointing", compute.activation_checkpointing, "none"),
        ("compile", compute.compile, False),
    ):
        if asked != plain:
            yield (
                f"compute.{field}: {asked!r} works layer by layer, and a U-Net's blocks are none of a kind; set it to "
                f"{str(plain).lower()}"
            )
    last = recipe.phases[-1].tuning
    if recipe.publish.adapter and (last.makes != "LORA" or not last.adapter_adds):
        yield (
            f"publish.adapter: diffusers loads low-rank matrices alone, and phase {recipe.phases[-1].name!r} leaves "
            f"{'more' if last.makes == 'LORA' else 'those of ' + repr(last.kind)}; remove it, or use lora without "
            "use_dora and modules_to_save"
        )
    if recipe.interpolation.by_layer:
        yield (
            f"interpolation: {recipe.interpolation.kind!r} tells layers apart by their depth, and a U-Net's blocks go "
            "down and up again; use wise_ft without depth"
        )


def _draws(recipe: RecipeParts, dataset: str) -> bool:
    predictor = KINDS[recipe.datasets[dataset].format.yields].predictor
    return predictor is not None and predictor.draws


def _tuning_misfits(phase: Phase) -> Iterator[str]:
    tuning, where = phase.tuning, f"phases[{phase.name}]"
    if tuning.leaves == "adapter" and tuning.merges:
        yield (
            f"{where}.tuning.keep: adapter, but a version that draws images is a whole pipeline; set it to merged, and "
            "publish.adapter to true for the adapter beside it"
        )
    elif not _moves_unet(phase):
        yield f"{where}.tuning: {tuning.kind!r} does not fit a U-Net; use full or lora"
    elif tuning.layer_decay != 1.0:
        yield (
            f"{where}.tuning.layer_decay: {tuning.layer_decay:g} tells layers apart by their depth, and a U-Net's "
            "blocks go down and up again; leave it at 1"
        )


def _moves_unet(phase: Phase) -> bool:
    tuning = phase.tuning
    plain = tuning.takes_steps and tuning.merges and not tuning.places and tuning.quantization is None
    return plain and not tuning.moves_head_only and not tuning.unfreezes
