"""Pages with their plots inside, as Prefect takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.events import Event, Resource
from prefect.settings import PREFECT_SERVER_EVENTS_MAXIMUM_SIZE_BYTES, temporary_settings

from flows.pages.run_page import inlined


def page(folder: Path, **plots: int) -> Path:
    for name, size in plots.items():
        (folder / f"{name}.png").write_bytes(b"x" * size)
    text = "\n".join(f"![The {name}]({name}.png)" for name in plots)
    (made := folder / "page.md").write_text(f"# Page\n\n{text}\n\n![Gone](gone.png) ![Far](https://h/a.png)\n")
    return made


def test_every_plot_is_inside_where_there_is_room(tmp_path: Path) -> None:
    text = inlined(page(tmp_path, line=3000, boxes=90_000))
    assert text.count("data:image/png;base64,") == 2
    assert "![Gone](gone.png) ![Far](https://h/a.png)" in text


@pytest.mark.parametrize(("limit", "inside"), [(1_500_000, 1), (5_000_000, 2)])
def test_the_largest_plots_are_left_out_of_what_an_event_cannot_carry(tmp_path: Path, limit: int, inside: int) -> None:
    with temporary_settings({PREFECT_SERVER_EVENTS_MAXIMUM_SIZE_BYTES: limit}):
        text = inlined(page(tmp_path, boxes=1_200_000, line=60_000))
    assert text.count("data:image/png;base64,") == inside
    assert ("*The boxes: too large for this page.*" in text) == (inside == 1)
    event = Event(
        event="prefect.artifact.created", resource=Resource({"prefect.resource.id": "a"}), payload={"data": text}
    )
    assert len(event.model_dump_json()) < limit
    assert json.dumps(text)
