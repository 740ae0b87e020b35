"""The arithmetic of docs/scale.md: by hand, by its limits, and that the page says what the script does."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.scale import (
    CASES,
    CONSTANTS,
    GPUS,
    LARGE,
    ROWS,
    SMALL,
    Scale,
    dollars_of,
    first_of_gpus,
    first_of_rows,
    main,
    parts_of,
    tables,
    with_tables,
)
from ftlib.storage import s3

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()
SCALE = Scale()


def test_the_page_has_the_scripts_tables() -> None:
    assert with_tables(PAGE, tables(SCALE)) == PAGE, "python -m benchmarks.scale --write"
    assert {*re.findall(r"<!-- (?!end)(\w+) -->", PAGE)} == {*tables(SCALE)}


@pytest.mark.parametrize(
    ("name", "page", "words"),
    [
        ("mfu_ours", "benchmarks.md", "| Réglage, in process | 17,646 | 11 % |"),
        ("ingest", "benchmarks.md", "the whole stage with a schema | 76,000 |"),
        ("upload", "benchmarks.md", "| Réglage | 220 (200 to 228) |"),
        ("download", "benchmarks.md", "470 (419 to 586)"),
        ("list", "benchmarks.md", "3,000; 10,000 | 1.3; 4.1 |"),
        ("overhead", "benchmarks.md", "24.1 s around the stages' work"),
        ("commit", "benchmarks.md", "4.8 kB"),
        ("preprocess", "preprocess-reference.md", "5,000 rows per second"),
        ("near", "preprocess-reference.md", "23,000\nwhere a tenth are"),
        ("run_events", "deploy.md", "170 KB a run"),
    ],
)
def test_what_was_measured_here_stands_where_it_is_said_to(name: str, page: str, words: str) -> None:
    assert CONSTANTS[name].origin == "measured"
    assert page in CONSTANTS[name].source
    assert words in (ROOT / "docs" / page).read_text()


def test_what_the_code_sets_is_what_it_sets() -> None:
    assert SCALE.of["part_up"] == s3.PART_BYTES
    assert SCALE.of["part_down"] == s3.RANGE_BYTES
    assert {one.origin for one in CONSTANTS.values()} == {"measured", "vendor", "code", "assumed"}


def test_a_step_of_8_b_by_hand() -> None:
    # 128 rows of 4,096 tokens a GPU, at 6 FLOPs; 32 micro-batches of 4 rows, over NVLink
    assert SCALE.computing(LARGE, 8) == pytest.approx(6 * 8.03e9 * 128 * 4096 / (0.325 * 989e12))
    assert SCALE.exchanging(LARGE, 8) == pytest.approx((32 * 4 + 4) * 8.03e9 * 7 / 8 / (0.7 * 450e9))
    assert SCALE.computing(LARGE, 1000) == pytest.approx(6 * 8.03e9 * 2 * 4096 / (0.325 * 989e12))  # 24 GPUs have two
    assert SCALE.exchanging(LARGE, 1000) == pytest.approx(8 * 8.03e9 * 0.999 / 35e9)
    assert SCALE.rate(LARGE, 8) / 8 == pytest.approx(6667, rel=0.01)  # torchtitan's own figure comes back
    assert SCALE.memory(LARGE, 8) == pytest.approx((2 + 4 + 0.125) * 8.03e9 + 20e9)
    assert SCALE.exchanging(LARGE, 1) == 0


def test_a_checkpoint_by_hand() -> None:
    assert SCALE.saving(LARGE, 8) == pytest.approx(12 * 8.03e9 / 8 / 220e6)
    assert SCALE.saving(LARGE, 1000) == pytest.approx(12 * 8.03e9 / 8 / 2**20 / 3500)  # bound by requests
    assert SCALE.resuming(LARGE, 8) == pytest.approx(8.8 + 12 * 8.03e9 / 8 / 470e6)
    assert SCALE.lost(LARGE, 1024) == pytest.approx((300 + SCALE.resuming(LARGE, 1024)) / (7.9 * 3600))


def test_time_memory_and_money_grow_with_rows_and_no_part_with_gpus() -> None:
    for case in CASES:
        runs = [parts_of(SCALE, case, rows) for rows in ROWS]
        for one, ten in pairwise(runs):
            assert all(one[part] <= ten[part] <= 10.001 * one[part] for part in one)
        spent = [sum(dollars_of(SCALE, case, rows).values()) for rows in ROWS]
        assert spent == sorted(spent)
    for few, many in pairwise(GPUS):
        assert SCALE.computing(LARGE, many) < SCALE.computing(LARGE, few)
        assert SCALE.memory(LARGE, many) < SCALE.memory(LARGE, few)
        assert SCALE.saving(LARGE, many) <= SCALE.saving(LARGE, few)


def test_the_bottlenecks_that_the_page_names() -> None:
    named = ["GPU memory", "GPUs", "GPUs", "GPUs, gathering weights next", "gathering weights"]
    assert [first_of_gpus(SCALE, gpus) for gpus in GPUS] == named
    ours = Scale({"mfu": CONSTANTS["mfu_ours"].value})
    assert [first_of_gpus(ours, gpus)[:4] for gpus in GPUS[1:]] == ["GPUs"] * 4
    one_core, many = [[first_of_rows(SCALE, case, rows) for rows in ROWS] for case in (CASES[0], CASES[3])]
    assert one_core == ["starting", *["preparing rows"] * 5]
    assert many == [*["publishing"] * 3, *["GPUs"] * 3]
    cores = SCALE.rate(SMALL, 1) / 75 / (1 / (SCALE.preprocessing(1, 1) + SCALE.ingesting(1, 1)))
    assert 5.5 < cores < 6.5
    assert first_of_gpus(Scale({"upload": 1e6}), 8) == "uploading checkpoints"


def test_constants_of_ones_own_are_taken_and_unknown_ones_refused() -> None:
    done = CliRunner().invoke(main, ["--set", "gpu_memory=2e11"])
    assert not done.exit_code
    assert "GPU memory |" not in done.output
    for words, said in (("gpus=3", "no such constant"), ("mfu=fast", "name=number"), ("mfu", "name=number")):
        refused = CliRunner().invoke(main, ["--set", words])
        assert refused.exit_code == 2
        assert said in refused.output
