"""A run's page in Prefect: plots are in it, unless Prefect would refuse it with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_SERVER_EVENTS_MAXIMUM_SIZE_BYTES

from flows.pages.run_page import LARGEST_MARKDOWN, inlined


@pytest.mark.parametrize("large", [False, True])
def test_plots_are_left_out_of_a_page_that_they_would_make_too_large(tmp_path: Path, large: bool) -> None:
    page, told = tmp_path / "report.md", "# A run\n\n![a plot](plot.png)\n"
    page.write_text(told, encoding="utf-8")
    (tmp_path / "plot.png").write_bytes(bytes(LARGEST_MARKDOWN if large else 30))
    assert inlined(page) == (told if large else told.replace("plot.png", f"data:image/png;base64,{'A' * 40}"))


def test_prefect_takes_the_largest_page() -> None:
    assert PREFECT_SERVER_EVENTS_MAXIMUM_SIZE_BYTES.value() >= LARGEST_MARKDOWN * 1.2  # line ends are escaped
