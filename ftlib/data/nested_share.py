"""Which rows of a training split a share of it has: nested, and alike in its labels."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

_PIECE = re.compile(r"-\d+$")
"""What a row's id ends in that is one of several pieces of an example."""


def nested_share(
    row_ids: Sequence[str], labels: Sequence[Hashable], share: float, seed: int
) -> Bool[np.ndarray, " rows"]:
    """Return which rows a share has: of each label so much, rounded up, and all pieces of an example or none.

    A function of the ids, the labels and the seed alone, whatever the order of the rows; a smaller share's rows are
    among a larger one's. An example is of the label of its first piece.
    """
    import numpy as np

    examples = [example_of(row_id) for row_id in row_ids]
    of_label: dict[Hashable, dict[str, None]] = defaultdict(dict)
    label_of: dict[str, Hashable] = {}
    for example, label in zip(examples, labels, strict=True):
        of_label[label_of.setdefault(example, label)][example] = None
    taken = {
        example
        for mine in of_label.values()
        for example in sorted(mine, key=lambda one: (_place(one, seed), one))[: math.ceil(share * len(mine) - 1e-9)]
    }
    return np.array([example in taken for example in examples], np.bool_)


def example_of(row_id: str) -> str:
    """Return the id of the example that a prepared row is, or is a piece of."""
    return _PIECE.sub("", row_id)


def _place(example: str, seed: int) -> bytes:
    return hashlib.sha256(f"share\0{seed}\0{example}".encode()).digest()
