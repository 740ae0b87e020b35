"""What a detector of the DETR family loses on an image: queries matched to boxes, then label, place and overlap.

As in Carion et al. 2020 (arXiv 2005.12872), with its weights. transformers divides by the boxes of a batch, so that the
gradient depends on how a batch is split; here each image is divided by its own boxes and its own queries' weights. For
one image the two are the same number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, l1_loss

from ftlib.errors import ModelError
from ftlib.kinds.batch import Batch

NO_BOX = -1
"""Instead of a label: fills rows of boxes up."""
NOTHING = 0.1
"""What a query counts that is to say that nothing is there, beside 1."""
PLACE, OVERLAP = 5.0, 2.0
"""What distance and lack of overlap of boxes count, beside 1 for the label; in the matching as in the loss."""

Pairs = tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Int[Tensor, " pairs"]]
"""The row, the query and the box of each pair."""


def box_losses(output: Any, batch: Batch) -> Float[Tensor, " rows"]:
    """Return each image's loss; targets are boxes x (label, x and y of the middle, width, height), filled up.

    All images are one call of each function of torch: of small detectors the calls take longer than the numbers.
    """
    assert batch.targets is not None
    logits, places = output.logits.float(), output.pred_boxes.float()
    labels, boxes = batch.targets[..., 0].long(), batch.targets[..., 1:]
    return matched_losses(logits, places, labels, boxes, match(logits, places, labels, boxes))


def matched_losses(
    logits: Float[Tensor, "rows queries says"],
    places: Float[Tensor, "rows queries 4"],
    labels: Int[Tensor, "rows boxes"],
    boxes: Float[Tensor, "rows boxes 4"],
    pairs: Pairs,
) -> Float[Tensor, " rows"]:
    """Return each image's loss where it is said which query is to say which box."""
    rows, queries, matched = pairs
    nothing = logits.shape[-1] - 1
    said = torch.full(logits.shape[:2], nothing, device=logits.device)
    said[rows, queries] = labels[rows, matched]
    weights = logits.new_ones(logits.shape[-1])
    weights[nothing] = NOTHING
    of_labels = cross_entropy(logits.transpose(1, 2), said, weights, reduction="none").sum(-1) / weights[said].sum(-1)
    ours, theirs = places[rows, queries], boxes[rows, matched]
    distance = l1_loss(ours, theirs, reduction="none").sum(-1)
    lacking = 1 - paired_overlap(corners(ours), corners(theirs))
    there = (labels != NO_BOX).sum(-1).clamp(min=1)
    total = of_labels + 0.0 * places.sum((1, 2))  # without a box, too, every parameter has a gradient, as workers need
    return total.index_add(0, rows, (PLACE * distance + OVERLAP * lacking) / there[rows])


def check_has_nothing(config: Any, logits: Tensor) -> None:
    """Raise ModelError for a detector whose queries have no answer that nothing is there."""
    if logits.shape[-1] != len(config.id2label) + 1:
        raise ModelError(
            f"{config.model_type} says {logits.shape[-1]} numbers a query for {len(config.id2label)} labels; only "
            "detectors with one more, for nothing, are trained here: yolos, detr"
        )


@torch.no_grad()
def match(
    logits: Float[Tensor, "rows queries says"],
    places: Float[Tensor, "rows queries 4"],
    labels: Int[Tensor, "rows boxes"],
    boxes: Float[Tensor, "rows boxes 4"],
) -> Pairs:
    """Return the cheapest matching of one to one in each row: the rows, their queries and their boxes."""
    from scipy.optimize import linear_sum_assignment

    there = labels != NO_BOX
    says = logits.softmax(-1)
    of_labels = says.gather(-1, labels.clamp(min=0)[:, None].expand(-1, says.shape[1], -1))
    overlap = paired_overlap(corners(places)[:, :, None], corners(boxes)[:, None])
    cost = PLACE * torch.cdist(places, boxes, p=1) - of_labels - OVERLAP * overlap
    costs = torch.nan_to_num(cost, nan=1e6).cpu().double().numpy()
    pairs: list[np.ndarray] = []
    for row, ones in enumerate(there.cpu().numpy()):
        which = np.flatnonzero(ones)
        queries, matched = linear_sum_assignment(costs[row][:, which])
        pairs.append(np.stack([np.full(len(queries), row), queries, which[matched]]))
    rows, queries, matched = torch.as_tensor(np.concatenate(pairs, axis=1), device=logits.device)
    return rows, queries, matched


def corners(boxes: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes 4"]:
    """Return left, top, right and bottom of boxes that are given by middle, width and height."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def paired_overlap(ours: Float[Tensor, "*boxes 4"], theirs: Float[Tensor, "*boxes 4"]) -> Float[Tensor, "*boxes"]:
    """Return the generalised overlap of boxes by corners (Rezatofighi et al. 2019, arXiv 1902.09630)."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    each = area(ours[..., :2], ours[..., 2:]) + area(theirs[..., :2], theirs[..., 2:])
    shared = area(torch.maximum(ours[..., :2], theirs[..., :2]), torch.minimum(ours[..., 2:], theirs[..., 2:]))
    hull = area(torch.minimum(ours[..., :2], theirs[..., :2]), torch.maximum(ours[..., 2:], theirs[..., 2:]))
    union = each - shared
    return shared / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)
