"""Against stock transformers: the pixels that a model reads are those that its image processor makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ftlib.data.formats.labeled_image import LabeledImage
from ftlib.data.images.cells import to_cell
from ftlib.data.inputs import Pixels
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example, Values
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.collate import Collator
from tests.ftlib.data.images.pictures import encoded, noise

SQUARE = {"height": 32, "width": 32}
STOCK = [
    ViTImageProcessorPil(size=SQUARE),
    ViTImageProcessorPil(size={"height": 20, "width": 36}, do_normalize=False),
    ViTImageProcessorPil(size=SQUARE, do_rescale=False),
    EfficientNetImageProcessorPil(size=SQUARE),  # includes the top: normalised twice
    EfficientNetImageProcessorPil(size=SQUARE, include_top=False, rescale_offset=True, rescale_factor=1 / 127.5),
    EfficientNetImageProcessorPil(size=SQUARE, rescale_factor=1 / 128, image_mean=[127 / 128] * 3, image_std=[1.0] * 3),
    EfficientNetImageProcessorPil(size=SQUARE, do_center_crop=True, crop_size={"height": 28, "width": 28}),
    ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=SQUARE),
    MobileViTImageProcessorPil(size={"shortest_edge": 40}, crop_size=SQUARE),  # blue, green, red
]


def example(**options: Any) -> Example:
    found = LabeledImage().example({"image": to_cell(encoded(noise(**options))), "label": "cat"})
    assert isinstance(found, Example)
    return found


@pytest.mark.parametrize("stock", STOCK, ids=lambda stock: type(stock).__name__)
def test_the_model_reads_what_its_own_image_processor_makes(stock: Any) -> None:
    format, processor = LabeledImage(), Processor.of(image_processor=stock)
    (column,) = inputs = format.inputs(processor)
    assert isinstance(column, Pixels)
    for width, height in ((40, 24), (19, 50), (32, 32), (7, 7)):
        (encoding,) = format.encode([example(width=width, height=height)], processor)
        (piece,) = encoding.pieces
        assert piece.target == "cat"
        assert np.asarray(piece.inputs["pixel_values"]).dtype == np.uint8
        collate = Collator(0, None, frozenset({"pixel_values"}), torch.device("cpu"))
        read = collate({"pixel_values": [piece.inputs["pixel_values"]]}, inputs)["pixel_values"]
        expected = stock(noise(width, height), return_tensors="np")["pixel_values"]
        assert np.abs(np.asarray(read) - expected).max() < 1e-5


@pytest.mark.parametrize("stock", STOCK[:1] + STOCK[2:], ids=lambda s: type(s).__name__)
def test_another_size_is_what_a_published_folder_says(stock: Any, tmp_path: Any) -> None:
    format = LabeledImage(pixels=48)
    processor = Processor.of(image_processor=stock)
    (column,) = format.inputs(processor)
    assert (column.height, column.width) == (48, 48)  # type: ignore[union-attr]
    setting: Any = format.image_processor(processor)
    setting.save_pretrained(tmp_path)
    published = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    (encoding,) = format.encode([example()], processor)
    pixels = encoding.pieces[0].inputs["pixel_values"]
    again = LabeledImage().encode([example()], Processor.of(image_processor=published))[0].pieces[0]
    assert np.array_equal(pixels, again.inputs["pixel_values"])
    if (size := stock.size).shortest_edge and stock.do_center_crop:  # what is cut off stays in proportion
        assert published.size.shortest_edge / 48 == pytest.approx(size.shortest_edge / 32)


def test_a_processor_that_does_more_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="DetrImageProcessor does more to an image than resize"):
        LabeledImage().inputs(Processor.of(image_processor=DetrImageProcessorPil()))
    with pytest.raises(ModelError, match=r"ViTImageProcessor gives images of the shapes .*do_resize"):
        LabeledImage().inputs(Processor.of(image_processor=ViTImageProcessorPil(do_resize=False)))
    odd = CLIPImageProcessorPil(size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 28, "width": 32})
    (column,) = LabeledImage().inputs(Processor.of(image_processor=odd))
    assert (column.height, column.width) == (28, 32)  # type: ignore[union-attr]
    stock: Any = ViTImageProcessorPil(size={"longest_edge": 40})
    with pytest.raises(RecipeError, match="sizes images by longest_edge, which says no square"):
        LabeledImage(pixels=48).image_processor(Processor.of(image_processor=stock))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"label": "cat"}, "missing_image"),
        ({"image": "photos/1.png", "label": "cat"}, "image_not_ingested"),
        ({"image": 7, "label": "cat"}, "image_not_ingested"),
        ({"image": to_cell(encoded(noise()))}, "missing_label"),
        ({"image": to_cell(encoded(noise())), "label": 0.5}, "label_not_a_name"),
    ],
)
def test_a_row_without_image_or_label_is_dropped_with_its_reason(values: Values, reason: str) -> None:
    found = LabeledImage().example(values)
    assert isinstance(found, Dropped)
    assert found.reason == reason


def test_one_file_is_one_image_whatever_its_cell_is() -> None:
    data = encoded(noise())
    said = LabeledImage().example({"image": to_cell(data), "label": 1})
    other = LabeledImage().example({"image": to_cell(encoded(noise(), compress_level=0)), "label": "1"})
    assert isinstance(said, Example)
    assert isinstance(other, Example)
    assert said.label == other.label
    assert said.text != other.text  # the same pixels in another file: a near copy, and none by its bytes
    assert LabeledImage().sight(said) == LabeledImage().sight(other)
