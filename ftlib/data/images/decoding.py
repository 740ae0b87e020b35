"""A file's bytes as pixels: which formats are read, within which budget, and what is done to make all of them alike.

Every image becomes 8-bit RGB and upright. What that took is said (`Change`), since each of these is an error that
nobody sees when it goes wrong: a photo on its side, 16 bits clipped to white, black where there was nothing.

    EXIF orientation    applied
    palette, grey       as red, green and blue
    CMYK                converted without a profile, as Pillow does
    16 bits             the high byte of each sample: scaled, where Pillow's own conversion of grey clips
    transparency        laid over a background
    several frames      the first
    colour profiles     left aside: pixels are read as sRGB, by which models were trained
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from ftlib.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

PIXELS = 50_000_000
"""Of an image, at most, where nobody says another number: a photo of 50 megapixels, 150 MB when decoded."""
_ASPECT = 100
"""Times that the longer side may be the shorter: resized by its shorter side, 1 x 1,000,000 pixels would be a bomb."""

ImageReason = Literal[
    "too_large",
    "not_an_image",
    "image_not_allowed",
    "broken_image",
    "image_too_large",
    "missing_image_file",
    "image_outside",
]
Change = Literal[
    "turned_by_exif",
    "grey_to_rgb",
    "palette_to_rgb",
    "cmyk_to_rgb",
    "16_to_8_bits",
    "transparency_over_background",
    "first_of_several_frames",
    "colour_profile_ignored",
]
"""What was done to an image."""

_Kind = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
KINDS: tuple[_Kind, ...] = get_args(_Kind)
"""What is decoded, by Pillow's names. Others are not: an EPS file is a program, and Pillow would have it run."""

_MARKS: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"WEBP", 8, "WEBP"),
    (b"GIF87a", 0, "GIF"),
    (b"GIF89a", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"%!PS", 0, "EPS"),
    (b"\xc5\xd0\xd3\xc6", 0, "EPS"),
    (b"%PDF", 0, "PDF"),
    (b"8BPS", 0, "PSD"),
    (b"\0\0\1\0", 0, "ICO"),
    (b"\0\0\0\x0cjP  ", 0, "JPEG2000"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftypheic", 4, "HEIC"),
    (b"ftypheix", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC"),
)
_HEAD = 512
"""Bytes within which a drawing says that it is one."""
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"} | {
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's name of what undoes an EXIF orientation."""
_ORIENTATION = 0x0112


class ImageError(DataError):
    """Bytes that are no image which can be read. The message is a predicate with its remedy: `is PNG that ...`."""

    reason: ImageReason = "broken_image"
    """By which it is counted."""


def refusal(reason: ImageReason, what: str) -> ImageError:
    """Return the error to raise. The reason is no parameter of its class: errors cross processes as pickles."""
    error = ImageError(what)
    error.reason = reason
    return error


class Decoded(NamedTuple):
    """An image in 8-bit RGB, upright, and what was done to make it so."""

    image: Image.Image
    changes: tuple[Change, ...]


def sniff(data: bytes) -> str | None:
    """Return what a file's first bytes say that it is, whatever its name says; None for what is no known image."""
    for mark, start, kind in _MARKS:
        if data[start : start + len(mark)] == mark:
            return kind
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    return "SVG" if head.startswith(b"<") and b"<svg" in data[: 8 * _HEAD] else None


def decode(data: bytes, background: str = "white", pixels: int = PIXELS) -> Decoded:
    """Decode a file's bytes; transparent parts show the background, a colour as CSS names it.

    Raises ImageError for what is no image, one of another format, broken, or of more than `pixels` pixels: that is
    told from its header, before memory is taken for it.
    """
    kind = sniff(data)
    if kind is None:
        raise refusal("not_an_image", f"holds {_shown(data)}, which is no image; write {_these(KINDS)}")
    if kind not in KINDS:
        raise refusal("image_not_allowed", f"is {kind}; {_CONVERT.get(kind, 'convert it to PNG')}")
    with _opened(data, kind) as image:
        width, height = image.size
        if width * height > pixels:
            raise refusal(
                "image_too_large",
                f"has {width} x {height} pixels, allowed {pixels:,}; make it smaller or raise limits.image_pixels",
            )
        if max(width, height) > _ASPECT * min(width, height):
            raise refusal(
                "image_too_large",
                f"has {width} x {height} pixels, one side more than {_ASPECT} times the other; cut it",
            )
        image.load()
        return _plain(image, data, kind, background)


_CONVERT = {
    "SVG": "a drawing, which has no pixels: draw it as PNG (rsvg-convert), or leave it out (a glob: **/*.png)",
    "EPS": "a program, which is not run: draw it as PNG",
}


def _shown(data: bytes) -> str:
    return f"bytes that begin with {data[:12]!r}" if data else "0 bytes"


def _these(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


@contextmanager
def _opened(data: bytes, kind: str) -> Generator[Image.Image]:
    """Open an image by one decoder, with Pillow's settings as we rely on them, whoever in this process changed them.

    Raises ImageError for whatever Pillow raises within the block.
    """
    from PIL import Image, ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False  # we count pixels ourselves
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like
            with Image.open(io.BytesIO(data), formats=(kind,)) as image:
                yield image
    except ImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # what decoders raise for damaged bytes is no closed list
        short = "; it ends too early" if "truncated" in str(error).lower() else ""
        raise refusal(
            "broken_image", f"is {kind} that cannot be decoded ({_first_line(error)}){short}: write it again"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _first_line(error: Exception) -> str:
    # Pillow names the object that it reads from, at an address.
    return (str(error).splitlines() or [""])[0].partition(" <_io")[0] or type(error).__name__


def _plain(image: Image.Image, data: bytes, kind: str, background: str) -> Decoded:
    """Return the first frame in 8-bit RGB."""
    changes: list[Change] = []
    if getattr(image, "n_frames", 1) > 1:
        changes.append("first_of_several_frames")
    profile = image.info.get("icc_profile") or b""
    if profile and b"sRGB" not in profile and b"s\0R\0G\0B" not in profile:
        changes.append("colour_profile_ignored")
    turn = _orientation(image, data, kind)
    plain = _in_8_bits(image, changes)
    if kind == "PNG" and data[24:25] == b"\x10" and "16_to_8_bits" not in changes:
        changes.append("16_to_8_bits")  # Pillow has taken the high bytes of colours already
    plain = _in_rgb(plain, background, changes)
    if turn in _TURNS:
        from PIL import Image as pillow

        changes.append("turned_by_exif")
        if kind != "TIFF":  # Pillow turns these by itself, when it loads them
            plain = plain.transpose(getattr(pillow.Transpose, _TURNS[turn]))
    return Decoded(plain, tuple(sorted(changes)))


def _orientation(image: Image.Image, data: bytes, kind: str) -> int:
    """Return the EXIF orientation, 1 where there is none that can be read."""
    try:
        if kind == "TIFF":  # loading has turned the image and taken the tag away
            from PIL import Image as pillow

            with pillow.open(io.BytesIO(data), formats=("TIFF",)) as again:
                return int(cast("Any", again).tag_v2.get(_ORIENTATION, 1))
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF damages no pixel
        return 1


def _in_8_bits(image: Image.Image, changes: list[Change]) -> Image.Image:
    """Return an image of at most 8 bits a sample. Raises ImageError for 32 bits, of which nobody says what is white."""
    if image.mode.startswith("I;16"):
        import numpy as np
        from PIL import Image as pillow

        changes.append("16_to_8_bits")
        return pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise refusal(
            "image_not_allowed",
            f"has 32 bits a sample (mode {image.mode}), and nothing says which value is white; write 8 or 16 bits",
        )
    return image


_SAID: dict[str, Change] = {
    "1": "grey_to_rgb",
    "L": "grey_to_rgb",
    "LA": "grey_to_rgb",
    "La": "grey_to_rgb",
    "P": "palette_to_rgb",
    "PA": "palette_to_rgb",
    "CMYK": "cmyk_to_rgb",
}


def _in_rgb(image: Image.Image, background: str, changes: list[Change]) -> Image.Image:
    """Return an 8-bit image as RGB, what is transparent over the background."""
    if image.mode in _SAID:
        changes.append(_SAID[image.mode])
    if image.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in image.info:
        return _converted(image, "RGB")
    from PIL import Image as pillow

    layer = _converted(image, "RGBA")
    if cast("int", layer.getchannel("A").getextrema()[0]) == 255:
        return layer.convert("RGB")
    changes.append("transparency_over_background")
    ground = pillow.new("RGBA", layer.size, background)
    return pillow.alpha_composite(ground, layer).convert("RGB")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError as error:
        raise refusal(
            "image_not_allowed", f"has colours of mode {image.mode}, which is not read; write RGB or grey"
        ) from error
