"""What a model's layers did before some were removed, and which went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlib.models.checkpoint import Checkpoint
from ftlib.models.pruning import PRUNING, Pruning
from ftlib.report.content import Cell, Figure, Row, Section, Table, texts
from ftlib.report.figures import SHIFTED, TARGET, canvas, saved
from ftlib.wording import counted


def pruned_section(checkpoints: Sequence[Checkpoint], folder: Path) -> Section | None:
    """Return every layer's influence and what the model lost, the plot written to `folder`; None if nothing went."""
    record = next((c.path / PRUNING for c in checkpoints if (c.path / PRUNING).is_file()), None)
    if record is None:
        return None
    pruning = Pruning.model_validate_json(record.read_bytes())
    number = len(pruning.removed)
    rows = [
        Row([*texts(layer, f"{influence:.4f}"), *texts(_angle(pruning, layer)), _fate(pruning, layer)])
        for layer, influence in enumerate(pruning.influences)
    ]
    sizes = [
        Row(texts("layers", *pruning.layers)),
        Row(texts("parameters", *pruning.parameters)),
        Row(texts("weights", *(f"{size / 1e6:,.1f} MB" for size in pruning.bytes))),
    ]
    return Section(
        "pruned",
        "Removed layers",
        f"{counted(number, 'layer').capitalize()} of {len(pruning.influences)} went before the first phase: what "
        f"changes hidden states least, over {pruning.tokens:,} tokens of {counted(pruning.rows, 'training row')}. How "
        "much faster the rest is depends on the machine: the run's record has what this one measured.",
        figures=[_figure(pruning, folder)],
        tables=[
            Table(["", "before", "after"], sizes, numeric=frozenset({1, 2})),
            Table(["layer", "influence", f"angle over {number}", ""], rows, "layers", frozenset({0, 1, 2})),
        ],
    )


def _angle(pruning: Pruning, layer: int) -> str:
    return f"{pruning.distances[layer]:.4f}" if layer < len(pruning.distances) else "–"


def _fate(pruning: Pruning, layer: int) -> Cell:
    return Cell("removed", tone="bad") if layer in pruning.removed else Cell("")


def _figure(pruning: Pruning, folder: Path) -> Figure:
    """Draw the influence of every layer."""
    layers = range(len(pruning.influences))
    colours = [SHIFTED if layer in pruning.removed else TARGET for layer in layers]
    with canvas(6.4, 3.2, 1, 1) as (figure, grid):
        axes = grid[0][0]
        axes.bar(layers, pruning.influences, color=colours, width=0.7)
        axes.set_xlabel("layer, from the input")
        axes.set_title("influence", loc="left")
        axes.locator_params(axis="x", integer=True)
        return saved(
            figure,
            folder,
            "block_influence",
            "Of each layer 1 - the mean cosine of its input and output; the other colour: removed. "
            f"The angle is between the first input and the last output of {counted(len(pruning.removed), 'layer')} in "
            "a row from there, as a share of 180 degrees.",
        )
