from __future__ import annotations

import copy
import io
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from ftlib.data.images.cells import bare_base64, from_cell, image_in, to_cell
from ftlib.data.images.decoding import KINDS, ImageError, decode
from tests.ftlib.data.images.pictures import encoded, noise

EXACT = ("PNG", "BMP", "TIFF")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_and_a_cut_file_is_told(kind: str) -> None:
    data = encoded(noise(), kind)
    found = decode(data)
    assert found.image.mode == "RGB"
    assert found.image.size == (40, 24)
    if kind in EXACT:
        assert found.image.tobytes() == noise().tobytes()
        assert found.changes == ()
    for length in (*range(3, 64), len(data) // 4, len(data) // 2, 3 * len(data) // 4):
        with pytest.raises(ImageError) as caught:
            decode(data[:length])
        assert caught.value.reason in ("not_an_image", "broken_image"), length


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(noise(), kind, exif=exif, **options)
    found = decode(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(found.image), np.asarray(expected))
    assert found.changes == (("turned_by_exif",) if orientation > 1 else ())


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.arange(0, 65536, 29)[:2048].reshape(32, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(values), kind))
        assert np.array_equal(np.asarray(found.image)[..., 1], values // 256)
        assert found.changes == ("16_to_8_bits", "grey_to_rgb")


def test_what_a_mode_becomes_is_right_and_said() -> None:
    grey = noise().convert("L")
    assert decode(encoded(grey)) == (grey.convert("RGB"), ("grey_to_rgb",))
    palette = noise().quantize(8)
    assert decode(encoded(palette)) == (palette.convert("RGB"), ("palette_to_rgb",))
    cmyk = decode(encoded(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF"))
    assert cmyk.image.tobytes() == bytes([0, 255, 255]) * 16
    assert cmyk.changes == ("cmyk_to_rgb",)
    assert decode(encoded(noise(), icc_profile=b"a wide one")).changes == ("colour_profile_ignored",)
    assert decode(encoded(noise(), icc_profile=b"this says sRGB")).changes == ()


def test_what_is_transparent_shows_the_background() -> None:
    """By the formula: a * colour + (1 - a) * background."""
    layer = np.dstack([np.asarray(noise()), np.tile(np.linspace(0, 255, 40).astype(np.uint8), (24, 1))])
    data = encoded(Image.fromarray(layer))
    for background, ground in (("white", 255), ("black", 0), ("#ff0000", np.array([255, 0, 0]))):
        found = decode(data, background)
        alpha = layer[..., 3:].astype(float) / 255
        expected = alpha * layer[..., :3] + (1 - alpha) * ground
        assert np.abs(np.asarray(found.image) - expected).max() <= 1
        assert found.changes == ("transparency_over_background",)
    opaque = noise().convert("RGBA")
    assert decode(encoded(opaque)) == (noise(), ())
    marked = decode(encoded(Image.new("RGB", (3, 3), (1, 2, 3)), transparency=(1, 2, 3)))
    assert marked.image.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    assert decode(encoded(palette, transparency=1)).image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    found = decode(data)
    assert np.asarray(found.image)[3, 3, 0] > 240
    assert "first_of_several_frames" in found.changes


def test_pixels_are_counted_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytearray(encoded(Image.new("L", (64, 64))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # its header says 3.6 billion pixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # of whom else uses Pillow here: an error for us
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # and grey where bytes are missing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data, pixels, said in (
            (bytes(bomb), 50_000_000, "60000 x 60000 pixels, allowed 50,000,000; make it smaller or raise"),
            (encoded(Image.new("L", (20, 20))), 399, "20 x 20 pixels, allowed 399"),
            (encoded(Image.new("L", (2000, 3))), 10**9, "one side more than 100 times the other"),
        ):
            with pytest.raises(ImageError, match=said) as caught:
                decode(data, pixels=pixels)
            assert caught.value.reason == "image_too_large"
        assert decode(encoded(Image.new("L", (20, 20))), pixels=400).image.size == (20, 20)
        with pytest.raises(ImageError, match="ends too early"):
            decode(encoded(noise(), "BMP")[:-100])
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        (b"", "not_an_image", "holds 0 bytes, which is no image; write PNG, JPEG, WEBP, GIF, BMP or TIFF"),
        (b"id,label\n1,cat\n", "not_an_image", "begin with b'id,label"),
        (b"<?xml version='1.0'?>\n<!-- a -->\n<svg xmlns='x'/>", "image_not_allowed", "rsvg-convert"),
        (b"%!PS-Adobe-3.0 EPSF\n(x) run", "image_not_allowed", "a program, which is not run"),
        (b"%PDF-1.7", "image_not_allowed", "is PDF; convert it to PNG"),
        (b"\0\0\0\x18ftypheic", "image_not_allowed", "is HEIC"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "image_not_allowed", "32 bits a sample"),
    ],
)
def test_what_is_no_image_says_why(data: bytes, reason: str, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert copy.copy(caught.value).reason == reason  # by what a pickle does, as from process to process


def test_a_cell_holds_the_files_own_bytes() -> None:
    data = encoded(noise(), "JPEG")
    cell = to_cell(data)
    assert cell.startswith("data:image/jpeg;base64,")
    assert from_cell(cell) == data
    assert image_in(cell).size == (40, 24)
    text = cell.partition(",")[2]
    assert bare_base64(text) == data == bare_base64(text.replace("+", "-").replace("/", "_"))
    assert bare_base64("photos/2024/a-very-long-name-of-a-file.png") is None
    for broken in ("photo.png", "data:image/png;base64", "data:image/png;base64,a!b?"):
        with pytest.raises(ImageError):
            from_cell(broken)
