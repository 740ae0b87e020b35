"""What a detector of the DETR family loses on an image: queries matched to boxes, then label, place and overlap.

As in Carion et al. 2020 (arXiv 2005.12872), with its weights. transformers divides by the boxes of a batch, so that the
gradient depends on how a batch is split; here each image is divided by its own boxes and its own queries' weights. For
one image the two are the same number.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
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


def box_losses(output: Any, batch: Batch) -> Float[Tensor, " rows"]:
    """Return each image's loss. Raises ModelError for a model whose labels exclude nothing: with sigmoids."""
    assert batch.targets is not None
    logits, places = output.logits.float(), output.pred_boxes.float()
    pairs = zip(logits, places, batch.targets, strict=True)
    return torch.stack([_loss(*one) for one in pairs])


def check_has_nothing(config: Any, logits: Tensor) -> None:
    """Raise ModelError for a detector whose queries have no answer that nothing is there."""
    if logits.shape[-1] != len(config.id2label) + 1:
        raise ModelError(
            f"{config.model_type} says {logits.shape[-1]} numbers a query for {len(config.id2label)} labels; only "
            "detectors with one more, for nothing, are trained here: yolos, detr"
        )


def _loss(logits: Tensor, places: Tensor, targets: Tensor) -> Float[Tensor, ""]:
    """Return one image's; `targets` are boxes x (label, x and y of the middle, width, height), filled up."""
    targets = targets[targets[:, 0] != NO_BOX]
    labels, boxes = targets[:, 0].long(), targets[:, 1:]
    queries, matched = match(logits, places, labels, boxes)
    nothing = logits.shape[-1] - 1
    said = torch.full((len(logits),), nothing, device=logits.device)
    said[queries] = labels[matched]
    weights = logits.new_ones(logits.shape[-1])
    weights[nothing] = NOTHING
    total = cross_entropy(logits, said, weights)
    if not len(labels):
        return total + 0.0 * places.sum()  # every parameter has a gradient, as workers need
    ours, theirs = places[queries], boxes[matched]
    distance = l1_loss(ours, theirs, reduction="sum")
    lacking = (1 - paired_overlap(corners(ours), corners(theirs))).sum()
    return total + (PLACE * distance + OVERLAP * lacking) / len(labels)


@torch.no_grad()
def match(logits: Tensor, places: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the queries and the boxes of the cheapest matching of one to one."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs = corners(places)[:, None], corners(boxes)[None]
    cost = PLACE * torch.cdist(places, boxes, p=1) - logits.softmax(-1)[:, labels]
    cost = cost - OVERLAP * paired_overlap(ours, theirs)
    queries, matched = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6).cpu().double().numpy())
    return torch.as_tensor(queries, device=logits.device), torch.as_tensor(matched, device=logits.device)


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
