"""Against plain loops over pixels, and brute force over all pairs."""

from __future__ import annotations

import io
import random
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from ftlib.data.images.likeness import Sight, measures, sight
from ftlib.data.images.near_images import Looked, NearImages, most_bits
from ftlib.data.near_duplicates import Side, near_copies
from tests.ftlib.data.images.pictures import encoded, noise, scene


def by_hand(image: Image.Image) -> tuple[Sight, int]:
    """Means over a grid that divides the image evenly, then comparisons, bit by bit.

    Also returns the bits that stand for a difference of more than rounding.
    """
    pixels = np.asarray(image).astype(int)
    height, width = image.height // 8, image.width // 9
    bits, sure = 0, 0
    cells = [
        [
            [int(pixels[y * height : (y + 1) * height, x * width : (x + 1) * width, c].mean() + 0.5) for c in range(3)]
            for x in range(9)
        ]
        for y in range(8)
    ]
    grey = [[(19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16 for r, g, b in row] for row in cells]
    for row in grey:
        for left, right in pairwise(row):
            bits, sure = bits << 1 | (right > left), sure << 1 | (abs(right - left) > 2)
    red, green, blue = (round(sum(cell[c] for row in cells for cell in row) / 72) for c in range(3))
    return Sight(bits, (red, green, blue)), sure


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_the_one_by_hand(seed: int) -> None:
    for image in (scene(90, 80, seed=seed), noise(45, 64, seed=seed)):
        found, (expected, sure) = sight(image), by_hand(image)
        assert sure.bit_count() > 40
        assert (found.bits ^ expected.bits) & sure == 0
        assert max(abs(a - b) for a, b in zip(found.colour, expected.colour, strict=True)) <= 1


def test_what_people_do_to_images_moves_few_bits_and_another_image_many() -> None:
    for seed in range(20):
        image = scene(seed=seed)
        small = image.resize((45, 40), Image.Resampling.BILINEAR)
        squeezed = Image.open(io.BytesIO(encoded(image, "JPEG", quality=60)))
        lighter = ImageEnhance.Brightness(image).enhance(1.05)
        for copy in (small, squeezed, lighter):
            assert (sight(image).bits ^ sight(copy).bits).bit_count() <= 3
        assert (sight(image).bits ^ sight(scene(seed=seed + 100)).bits).bit_count() > 12
    flat = [sight(Image.new("RGB", (30, 30), colour)) for colour in ("red", "white")]
    assert flat[0].bits == flat[1].bits == 0
    assert flat[0].colour != flat[1].colour


def test_most_bits_is_what_a_share_allows() -> None:
    assert [most_bits(share) for share in (0.85, 0.9, 0.95, 1 - 3 / 64, 0.99)] == [9, 6, 3, 3, 0]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0.85, 0.9, 0.95, 0.99]))
def test_no_near_pair_is_missed_and_no_other_found(seed: int, threshold: float) -> None:
    """The brute force walks the rows in the order that the rule says, and compares each with all before it."""
    draw = random.Random(seed)
    rows: list[Looked] = []
    for place in range(30):
        if rows and draw.random() < 0.7:
            model = draw.choice(rows).sight
            flips = sum(1 << bit for bit in draw.sample(range(64), draw.randint(0, 11)))
            shade = draw.randint(-20, 20)
            colour = tuple(min(255, max(0, value + shade)) for value in model.colour)
            seen = Sight(model.bits ^ flips, colour)  # type: ignore[arg-type]
        else:
            seen = Sight(draw.getrandbits(64), (draw.randrange(256), draw.randrange(256), draw.randrange(256)))
        side: Side = draw.choice(["train", "train", "validation", "test", "elsewhere"])
        rows.append(Looked(place, side, f"{place:04}", draw.choice(["a", "b"]), seen))
    found = near_copies(rows, partial(NearImages, threshold))

    def near(one: Looked, other: Looked) -> bool:
        colours = zip(one.sight.colour, other.sight.colour, strict=True)
        differ = (one.sight.bits ^ other.sight.bits).bit_count()
        return 1 - differ / 64 >= threshold - 1e-12 and all(abs(a - b) <= 16 for a, b in colours)

    order = ["test", "validation", "elsewhere", "train"]
    stay: list[Looked] = []
    expected: dict[int, str] = {}
    for row in sorted(rows, key=lambda row: (order.index(row.side), row.row_id)):
        held = [kept for kept in stay if kept.side != "train" and near(row, kept)]
        if row.side == "validation" and any(kept.side == "test" for kept in held):
            expected[row.place] = "near_leaked"
            continue
        if row.side == "train" and held:
            expected[row.place] = "near_leaked"
        elif row.side == "train" and any(k.side == "train" and k.label == row.label and near(row, k) for k in stay):
            expected[row.place] = "near_duplicate"
        else:
            stay.append(row)
    assert found == expected


def test_pairs_are_not_all_compared() -> None:
    """A count, not a time: of 1,500 hashes that have nothing in common few share a band of 16 bits."""
    draw = random.Random(0)
    index, compared = NearImages(0.95), 0
    rows = [Looked(i, "train", str(i), "a", Sight(draw.getrandbits(64), (0, 0, 0))) for i in range(1500)]
    for row in rows:
        keys = [("a", band, row.sight.bits & mask) for band, mask in enumerate(index._masks)]  # pyright: ignore[reportPrivateUsage]
        compared += sum(len(index._hashes[key]) for key in keys)  # pyright: ignore[reportPrivateUsage]
        index.add(row, "a")
    assert compared < len([*combinations(range(1500), 2)]) / 1000
    for _ in range(3):
        index.add(rows[0], "a")
    assert max(map(len, index._hashes.values())) < 6  # pyright: ignore[reportPrivateUsage]


def test_measures_are_those_of_the_pixels() -> None:
    image = Image.new("RGB", (64, 16), (200, 100, 0))
    assert measures(image) == {"size": 1 + 8 * 5, "brightness": 100 // 8, "colour": 200 // 8}
    assert measures(Image.new("RGB", (2, 2), "white")) == {"size": 9, "brightness": 31, "colour": 0}
