"""Which images are on the contact sheet, and what is written below them."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
from PIL import Image

from ftlib.data.inputs import Pixels
from ftlib.data.prepared import PreparedRow, write_split
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.report.contact_sheet import COLUMNS, contact_sheet
from ftlib.report.image_sheet import worst

LABELS = ("apps", "a $label$ of <many> letters")
COLUMN = Pixels(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def rows(path: Path, count: int) -> np.ndarray:
    """Write images of one colour each, in another order than the table's."""
    colours = np.random.default_rng(count).integers(0, 256, (count, 3), np.uint8)
    written = [
        PreparedRow(
            f"row{i}", {"pixel_values": np.tile(colours[i][:, None, None], (1, 8, 8))}, LABELS[i % 2], supervised=1
        )
        for i in reversed(range(count))
    ]
    write_split(path, "labeled_images", written, inputs=(COLUMN,))
    return colours


def answers(count: int) -> LabelOutcomes:
    probabilities = np.random.default_rng(count).dirichlet((1, 1), count)
    gold = np.arange(count) % 2
    return LabelOutcomes(
        row_ids=tuple(f"row{i}" for i in range(count)),
        nll=-np.log(probabilities[range(count), gold]),
        targets=np.ones(count, np.int64),
        labels=LABELS,
        gold=gold,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
    )


def pictures(svg: str) -> list[tuple[int, ...]]:
    found = re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', svg)
    images = [Image.open(io.BytesIO(base64.b64decode(data.replace("\n", "")))).convert("RGB") for data in found]
    return [image.getpixel((image.width // 2, image.height // 2)) for image in images]


def test_the_rows_of_highest_loss_are_drawn_worst_first(tmp_path: Path) -> None:
    colours, table = rows(tmp_path / "home.arrow", 40), answers(40)
    few, others = rows(tmp_path / "away.arrow", 3), answers(3)
    tables = {"home": table, "away": others}
    figure = contact_sheet(tmp_path, tables, {name: tmp_path / f"{name}.arrow" for name in tables})
    assert figure
    order = sorted(range(40), key=lambda i: -table.nll[i])[:COLUMNS]
    wanted = [*colours[order], *few[np.argsort(-others.nll)]]
    assert worst(table, COLUMNS) == order
    drawn = pictures(figure.svg)
    assert [[*each] for each in drawn] == [[*map(int, each)] for each in wanted]
    text = unescape(figure.svg)
    first = order[0]
    assert f"is {LABELS[first % 2]}"[:8] in text
    assert f"{table.probabilities[first].max():.0%}" in text
    assert (tmp_path / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    again = contact_sheet(tmp_path, tables, {name: tmp_path / f"{name}.arrow" for name in tables})
    assert again == figure


def test_rows_that_are_no_images_have_no_sheet(tmp_path: Path) -> None:
    tokens = {"input_ids": [1, 2]}
    write_split(tmp_path / "text.arrow", "labeled", [PreparedRow("row0", tokens, "apps", supervised=1)])
    assert contact_sheet(tmp_path, {"text": answers(1)}, {"text": tmp_path / "text.arrow"}) is None
    assert not (tmp_path / "contact_sheet.png").exists()
