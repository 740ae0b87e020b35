"""What a model's own image processor does before it leaves integers: resize and crop, by Pillow, to uint8.

A prepared split holds pixels as they are then; the collator brings them into the model's unit by `Pixels`' scale, mean
and std. Whether that is the same as what the stock processor does is not read off its fields, of which every class has
others: `pixels_of` runs it on two images and compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ftlib.data.inputs import Pixels
from ftlib.data.processor import ImageProcessor
from ftlib.errors import ModelError, RecipeError, first_line

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_CLOSE = 1e-5
"""Of two ways to compute the same in float32, at most, in the model's unit."""


def for_pixels(processor: ImageProcessor, pixels: int | None) -> ImageProcessor:
    """Return a processor that gives `pixels` x `pixels`; the margin it cuts off stays in proportion. None is its own.

    Its `save_pretrained` writes what a model that was trained so must be published with. Raises RecipeError where the
    processor's fields do not say how it sizes.
    """
    if pixels is None:
        return processor
    stock: Any = processor
    settings = stock.to_dict()
    size, crop = _known(settings.get("size")), _known(settings.get("crop_size"))
    if settings.get("do_center_crop") and crop.keys() >= {"height", "width"}:
        shorter = min(crop.values())
        changes = {
            "size": {name: round(value * pixels / shorter) for name, value in size.items()},
            "crop_size": {"height": pixels, "width": pixels},
        }
    elif size.keys() == {"shortest_edge", "longest_edge"}:  # detectors keep an image's proportions, and fill it up
        changes = {"size": {"height": pixels, "width": pixels}}
    elif size.keys() in ({"height", "width"}, {"shortest_edge"}):
        changes = {"size": dict.fromkeys(size, pixels)}
    else:
        raise RecipeError(
            f"pixels: {pixels}, but {_name(processor)} sizes images by {', '.join(size) or 'nothing'}, which says no "
            "square; leave pixels out"
        )
    return cast("ImageProcessor", type(stock).from_dict({**settings, **changes}))


def crops(processor: ImageProcessor) -> bool:
    """Say whether a processor cuts something off an image's sides."""
    return bool(getattr(processor, "do_center_crop", False))


def _known(size: Any) -> dict[str, int]:
    return {name: int(value) for name, value in (size or {}).items() if value is not None}


def to_uint8(processor: ImageProcessor, images: list[Image.Image]) -> list[np.ndarray]:
    """Return images in 8-bit RGB as uint8 of 3 x height x width, resized and cropped by the model's own processor."""
    options: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": None}
    if hasattr(processor, "include_top"):
        options["include_top"] = False  # EfficientNet's second normalisation, which no other flag turns off
    return [*processor(images, **options)["pixel_values"]]


def pixels_of(processor: ImageProcessor) -> Pixels:
    """Return the column that a processor's images make: their size, and how uint8 becomes the model's unit.

    Raises ModelError for a processor that does something else than resize, crop, rescale and normalise, or whose
    images differ in size.
    """
    import numpy as np

    images = _probes()
    try:
        whole = [np.asarray(image) for image in processor(images)["pixel_values"]]
        plain = [np.asarray(image) for image in to_uint8(processor, images)]
    except Exception as error:  # of whatever class the folder names
        raise ModelError(
            f"{_name(processor)} does not resize an image by itself: {first_line(error)}; correct its "
            "preprocessor_config.json"
        ) from error
    shapes = {image.shape for image in (*whole, *plain)}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 3 or shape[0] != 3 or any(image.dtype != np.uint8 for image in plain):
        raise ModelError(
            f"{_name(processor)} gives images of the shapes {', '.join(map(str, sorted(shapes)))}, needed is one size "
            "of three channels; let it resize to a square, or crop: do_resize, do_center_crop"
        )
    column = Pixels(height=shape[1], width=shape[2], **_unit(processor))
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (column.mean, column.std))
    worst = max(
        float(np.abs((ours.astype(np.float32) * np.float32(column.scale) - mean) / std - theirs).max())
        for ours, theirs in zip(plain, whole, strict=True)
    )
    if not worst <= _CLOSE:
        raise ModelError(
            f"{_name(processor)} does more to an image than resize, crop, rescale and normalise (its pixels differ by "
            f"{worst:.2g} from these steps); models with such a processor cannot be trained here"
        )
    return column


def _probes() -> list[Image.Image]:
    """Return a wide and a high image of noise."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)) for height, width in ((36, 51), (47, 29))
    ]


def _unit(processor: ImageProcessor) -> dict[str, Any]:
    """Return scale, mean and std as the processor's fields say them; its own steps in the order of its class."""
    stock: Any = processor
    rescales, normalises = bool(stock.do_rescale), bool(stock.do_normalize)
    mean = _channels(stock.image_mean) if normalises else (0.0, 0.0, 0.0)
    std = _channels(stock.image_std) if normalises else (1.0, 1.0, 1.0)
    if rescales and getattr(stock, "rescale_offset", False):  # EfficientNet's: from -1 to 1
        mean = cast("tuple[float, float, float]", tuple(value + 1 for value in mean))
    if getattr(stock, "include_top", False):  # EfficientNet's: by std once more
        again = _channels(stock.image_std)
        std = cast("tuple[float, float, float]", tuple(a * b for a, b in zip(std, again, strict=True)))
    return {"scale": float(stock.rescale_factor) if rescales else 1.0, "mean": mean, "std": std}


def _channels(values: Any) -> tuple[float, float, float]:
    listed = [float(value) for value in (values if isinstance(values, list | tuple) else [values])]
    one, two, three = listed * 3 if len(listed) == 1 else listed
    return one, two, three


def _name(processor: ImageProcessor) -> str:
    return type(processor).__name__.removesuffix("Pil")
