"""Result tables: every name and every number whole, at every width."""

import io
import re

import pytest
from rich.console import Console

from flows.command_line.results_table import Line, print_results
from ftlib.evaluation.measured import Estimate

NAMES = ["base", "tune", "chosen (alpha=0.8)", "name-finder@1", "/home/someone/models/a-rather-long-folder/model"]
METRICS = [
    "accuracy",
    "macro_f1",
    "perplexity",
    "bits_per_byte",
    "exact_match",
    "f1:a label with blanks",
    "ranking_precision",
    "log_loss",
]


def lines(count: int, names: list[str]) -> list[Line]:
    return [
        Line(
            name, {metric: Estimate(value=i + j / 8, low=i - 1, high=i + 1) for j, metric in enumerate(METRICS[:count])}
        )
        for i, name in enumerate(names)
    ]


def printed(width: int, found: list[Line]) -> str:
    stream = io.StringIO()
    print_results(Console(file=stream, width=width, highlight=False), "rows (target, 10 rows)", found)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("names", [NAMES[:2], NAMES[:3], NAMES[:4], NAMES, ["x" * 75, "y[bold]"]], ids=len)
def test_no_name_and_no_number_is_cut(width: int, count: int, names: list[str]) -> None:
    found = lines(count, names)
    text = printed(width, found)
    assert "…" not in text
    for line in found:
        for metric, estimate in line.metrics.items():
            assert metric in text
            assert f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" in text
    for name in names:
        assert name in text or all(word in text for word in name.split()), name
    longest = max(len(word) for name in names for word in name.split())
    assert max(map(len, text.splitlines())) <= max(width, longest)
    intervals = re.findall(r"-?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", text)
    assert len(intervals) == count * len(names), "each number once"


def test_every_number_stands_beside_its_model_and_under_its_metric() -> None:
    text = printed(80, lines(4, NAMES[:4]))
    blocks = text.split("model ")[1:]
    assert len(blocks) > 1
    seen: dict[tuple[str, str], str] = {}
    for block in blocks:
        header, _, *body = block.splitlines()
        places = {metric: header.index(metric) + len("model ") for metric in METRICS[:4] if metric in header}
        for row in body:
            for metric, place in places.items():
                if row[place:].strip():
                    seen[row[:13].split()[0], metric] = row[place:].split("]")[0] + "]"
    assert seen["name-finder@1", "bits_per_byte"] == "3.375 [2.000, 4.000]"
    assert seen["chosen", "perplexity"] == "2.250 [1.000, 3.000]"
    assert len(seen) == 16


def test_a_wide_terminal_has_one_table_and_a_narrow_one_a_list() -> None:
    assert printed(200, lines(6, NAMES[:3])).count("model") == 1
    text = printed(40, lines(2, ["a/folder/with/a/name/of/forty/letters/or/so"]))
    assert text.splitlines() == [
        "rows (target, 10 rows)",
        "a/folder/with/a/name/of/forty/letters/or/so",
        "  accuracy  0.000 [-1.000, 1.000]",
        "  macro_f1  0.125 [-1.000, 1.000]",
    ]


def test_a_metric_that_one_model_lacks_is_a_dash() -> None:
    some = Estimate(value=0.5, low=0.4, high=0.6)
    text = printed(80, [Line("a", {"accuracy": some}), Line("b", {"accuracy": some, "f1": some})])
    assert re.search(r"^a +0\.500 \[0\.400, 0\.600\] +–", text, re.MULTILINE)
