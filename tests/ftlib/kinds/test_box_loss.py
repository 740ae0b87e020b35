"""What a detector loses: transformers' own number for one image, and the same however a batch is split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig, YolosConfig, YolosForObjectDetection

from ftlib.errors import ModelError
from ftlib.kinds.batch import Batch
from ftlib.kinds.box_loss import NO_BOX, box_losses, check_has_nothing, match
from ftlib.training.objectives.detection import Detection

BOXES = (
    [[0, 0.5, 0.5, 0.2, 0.3], [2, 0.3, 0.6, 0.1, 0.1]],
    [],
    [[1, 0.2, 0.2, 0.2, 0.2]],
    [[2, 0.5, 0.5, 0.9, 0.9], [2, 0.5, 0.4, 0.8, 0.7], [0, 0.1, 0.1, 0.1, 0.1]],
)


def yolos() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = YolosConfig(
        **sizes, image_size=[32, 32], patch_size=8, num_detection_tokens=6, use_mid_position_embeddings=False
    )
    config.num_labels = 3
    return YolosForObjectDetection(config).eval()


def detr() -> Any:
    torch.manual_seed(0)
    body = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6}
    config = DetrConfig(
        use_timm_backbone=False, backbone_config=body, use_pretrained_backbone=False, backbone=None, **sizes, **heads
    )
    config.num_labels = 3
    return DetrForObjectDetection(config).eval()


def targets(rows: list[int]) -> torch.Tensor:
    most = max(len(BOXES[row]) for row in rows)
    filled = torch.full((len(rows), most, 5), float(NO_BOX))
    for place, row in zip(filled, rows, strict=True):
        place[: len(BOXES[row])] = torch.tensor(BOXES[row]).reshape(-1, 5)
    return filled


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(len(BOXES), 3, 32, 32, generator=torch.Generator().manual_seed(1))


def batch(rows: list[int], pixels: torch.Tensor) -> Batch:
    return Batch({"pixel_values": pixels[rows]}, torch.ones(len(rows), dtype=torch.int64), targets(rows))


@pytest.mark.parametrize("made", [yolos, detr])
def test_one_image_loses_what_transformers_says(made: Any, pixels: torch.Tensor) -> None:
    model = made()
    for row, boxes in enumerate(BOXES):
        told = torch.tensor(boxes).reshape(-1, 5)
        labels = [{"class_labels": told[:, 0].long(), "boxes": told[:, 1:]}]
        with torch.no_grad():
            output = model(pixel_values=pixels[[row]], labels=labels)
            ours = box_losses(output, batch([row], pixels))
        assert float(ours[0]) == pytest.approx(float(output.loss), rel=1e-5)


def test_the_split_of_a_batch_changes_neither_loss_nor_gradient(pixels: torch.Tensor) -> None:
    sums: list[float] = []
    gradients: list[list[torch.Tensor]] = []
    for split in ([[0, 1, 2, 3]], [[3], [1, 0], [2]]):
        model = yolos()
        losses = [Detection().loss(model, batch(rows, pixels)) for rows in split]
        for loss in losses:
            (loss.total / len(BOXES)).backward()
        assert sum(int(loss.count) for loss in losses) == len(BOXES)
        sums.append(sum(float(loss.total.detach()) for loss in losses))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_more_boxes_than_queries_leave_some_unmatched() -> None:
    near, far = [0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]
    logits, places = torch.zeros(2, 2, 3), torch.tensor([[near, far], [far, near]])
    boxes = torch.tensor([[far, [0.5, 0.5, 0.1, 0.1], near], [[0.0] * 4, near, [0.0] * 4]])
    labels = torch.tensor([[0, 0, 0], [NO_BOX, 1, NO_BOX]])  # the second image has one box, between what fills up
    pairs = zip(*(one.tolist() for one in match(logits, places, labels, boxes)), strict=True)
    assert set(pairs) == {(0, 0, 2), (0, 1, 0), (1, 1, 1)}


def test_a_detector_without_a_class_for_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="yolos says 3 numbers a query for 3 labels"):
        check_has_nothing(yolos().config, torch.zeros(1, 6, 3))
