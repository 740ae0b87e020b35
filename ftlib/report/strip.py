"""What the candidates along alpha draw of the same captions, from the same noise, as a strip of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ftlib.config import REPORT, BatchKind
from ftlib.data.inputs import Pixels, from_metadata
from ftlib.data.prepared import split_file
from ftlib.kinds.kind import KINDS
from ftlib.recipe.evidence import Evidence
from ftlib.report.content import Figure
from ftlib.report.figures import canvas, plain, saved

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

CAPTIONS, POINTS, STEPS = 4, 7, 10
"""Captions that are drawn, places along alpha at most, and the steps of an image."""
_LONGEST = 26
"""Letters of a caption that fit beside a line."""


class _Asked(NamedTuple):
    """Captions of an evaluation's test rows, with the images that they are of."""

    evaluation: str
    kind: BatchKind
    ids: Sequence[Sequence[int]]
    images: Sequence[UInt8[np.ndarray, "height width 3"]]


def sample_strip(evidence: Evidence, folder: Path) -> Figure | None:
    """Draw the captions of a few test rows by the candidates along alpha; None where the model draws no images.

    A line is one caption, from one seed; the image that the row has stands at its end.
    """
    members = [member for member in evidence.candidates.members if member.alpha is not None]
    asked = _asked(evidence)
    if asked is None or not members:
        return None
    import numpy as np
    import torch

    from ftlib.kinds.collate import Collator
    from ftlib.kinds.drawing import GUIDANCE, draw
    from ftlib.kinds.loading import load_processor
    from ftlib.merging.in_memory import model_of

    members.sort(key=lambda member: member.alpha or 0.0)
    some = [
        members[i] for i in np.unique(np.linspace(0, len(members) - 1, min(POINTS, len(members))).round().astype(int))
    ]
    columns = list[Any]()
    for member in some:
        model = model_of(member, asked.kind)
        inputs = Collator.of(model)({"input_ids": asked.ids})
        drawn = draw(model, inputs["input_ids"], inputs["attention_mask"], range(len(asked.ids)), steps=STEPS)
        columns.append((drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    tokenizer: Any = load_processor(some[-1].end.folder).tokenizer
    captions = [tokenizer.decode(ids, skip_special_tokens=True) for ids in asked.ids]
    titles = [*(f"alpha {member.alpha:g}" for member in some), "the row's own"]
    with canvas(1.25 * (len(titles) + 1), 1.3 * len(captions) + 0.3, len(captions), len(titles)) as (figure, grid):
        for line, caption in enumerate(captions):
            shown = [*(images[line] for images in columns), asked.images[line]]
            for axes, image, title in zip(grid[line], shown, titles, strict=True):
                axes.imshow(image, interpolation="nearest")
                axes.grid(visible=False)
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if line == 0:
                    axes.set_title(title, fontsize=8.5)
            words = caption if len(caption) <= _LONGEST else f"{caption[: _LONGEST - 1]}…"
            grid[line][0].set_ylabel(plain(words).replace(" ", "\n", 1), fontsize=7.5)
        return saved(
            figure,
            folder,
            "sample_strip",
            f"What the candidates along alpha draw of captions of {asked.evaluation}'s test rows, and the images that "
            f"these rows have: each line from one seed, in {STEPS} steps, guidance {GUIDANCE:g}.",
        )


def _asked(evidence: Evidence) -> _Asked | None:
    """Return captions of the evaluation that the choice goes by, spread over its test rows."""
    evaluation = evidence.recipe.select.by.partition("/")[0]
    data = evidence.prepared[evidence.recipe.evaluations[evaluation].dataset]
    predictor = KINDS[data.kind].predictor
    if predictor is None or not predictor.draws:
        return None
    import numpy as np
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(split_file(data.path, REPORT)))).read_all()
    column = next(one for one in from_metadata(table.schema.metadata) if isinstance(one, Pixels))
    rows = np.unique(np.linspace(0, len(table) - 1, min(CAPTIONS, len(table))).astype(int)).tolist()
    cells: list[Any] = [table[column.name][row] for row in rows]
    images = [cell.values.to_numpy().astype(np.uint8).reshape(column.shape).transpose(1, 2, 0) for cell in cells]
    return _Asked(evaluation, data.kind, [table["input_ids"][row].as_py() for row in rows], images)
