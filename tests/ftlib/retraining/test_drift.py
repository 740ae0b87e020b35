"""Against scipy's Kolmogorov-Smirnov statistic and numpy's arithmetic."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from ftlib.data.profile import OTHERS, Profile, length_bin, profile
from ftlib.retraining.drift import DriftLimits, drift, ks_distance, psi


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=12))
@settings(max_examples=100)
def test_psi_is_the_symmetric_divergence_of_the_shares(pairs: list[tuple[int, int]]) -> None:
    before, now = (np.array(column, float) + 0.5 for column in zip(*pairs, strict=True))
    p, q = before / before.sum(), now / now.sum()
    expected = float(np.sum((p - q) * np.log(p / q)))
    found = psi([a for a, _ in pairs], [b for _, b in pairs])
    assert found == pytest.approx(expected, abs=1e-12)
    assert found >= 0
    assert found == pytest.approx(psi([b for _, b in pairs], [a for a, _ in pairs]), abs=1e-12)


@given(st.lists(st.integers(0, 30), min_size=9, max_size=80), st.lists(st.integers(0, 30), min_size=9, max_size=80))
@settings(max_examples=100)
def test_the_distance_of_lengths_is_kolmogorov_and_smirnovs(before: list[int], now: list[int]) -> None:
    exact = ks_2samp(before, now, method="asymp").statistic
    assert ks_distance(Counter(before), Counter(now)) == pytest.approx(exact, abs=1e-12)


def test_bins_are_monotone_and_nine_percent_wide() -> None:
    bins = [length_bin(length) for length in range(20_000)]
    assert bins == sorted(bins)
    assert bins[0] == 0 < bins[1]
    for length in range(16, 18_000, 7):
        assert length_bin(int(length * 1.1) + 1) > length_bin(length)


def rows(count: int, seed: int, *, longer: float = 1.0, labels: str = "aabbc", regions: str = "xy") -> Profile:
    rng = random.Random(seed)
    return profile(
        (
            ("x" * int(longer * rng.lognormvariate(5, 0.5)), rng.choice(labels), (rng.choice(regions),))
            for _ in range(count)
        ),
        slices=("region",),
    )


def test_rows_from_the_same_place_have_not_drifted() -> None:
    found = drift(rows(3000, 1), rows(3000, 2))
    assert [one.feature for one in found] == ["length", "label", "slice:region"]
    assert not any(one.large for one in found)
    assert all(one.psi < 0.02 and one.distance < 0.06 for one in found)


def test_the_binned_distance_is_close_to_the_exact_one() -> None:
    rng = random.Random(3)
    before = [int(rng.lognormvariate(5, 0.5)) for _ in range(4000)]
    now = [int(rng.lognormvariate(5.2, 0.5)) for _ in range(4000)]
    exact = ks_2samp(before, now).statistic
    found = drift(*(profile(("x" * n, None, ()) for n in lengths) for lengths in (before, now)))
    assert [one.feature for one in found] == ["length"]
    assert exact - 0.03 <= found[0].distance <= exact + 1e-12


@pytest.mark.parametrize(
    ("changed", "feature"),
    [({"longer": 1.4}, "length"), ({"labels": "abbbc"}, "label"), ({"regions": "xyyyy"}, "slice:region")],
)
def test_what_moved_is_named_and_nothing_else(changed: dict[str, object], feature: str) -> None:
    found = drift(rows(3000, 1), rows(3000, 2, **changed))
    assert [one.feature for one in found if one.large] == [feature]


def test_a_small_shift_over_many_rows_is_no_drift() -> None:
    before, now = rows(60_000, 1), rows(60_000, 2, longer=1.02)
    lengths = [[bin for bin, count in p.lengths.items() for _ in range(count)] for p in (before, now)]
    assert ks_2samp(*lengths).pvalue < 1e-3
    assert not any(one.large for one in drift(before, now))


def test_labels_that_vanish_or_appear_are_named_and_large_whatever_their_share() -> None:
    found = drift(rows(3000, 1, labels="a" * 500 + "b" * 500 + "c"), rows(3000, 2, labels="a" * 500 + "b" * 500 + "d"))
    label = next(one for one in found if one.feature == "label")
    assert (label.vanished, label.appeared, label.large) == (("c",), ("d",), True)
    assert label.distance < 0.1
    assert str(label).endswith("; vanished: c; appeared: d")


def test_too_few_rows_say_nothing() -> None:
    assert drift(rows(1999, 1), rows(3000, 2, longer=3)) == ()
    assert drift(rows(3000, 1), rows(1999, 2, longer=3)) == ()
    assert drift(rows(100, 1), rows(100, 2, longer=3), DriftLimits(rows=100))[0].large


def test_a_slice_of_many_values_stays_small_and_is_not_compared() -> None:
    many = [profile((("x", None, (f"{seed} {i}",)) for i in range(3000)), slices=("user",)) for seed in (1, 2)]
    assert len(many[0].slices["user"]) == 201
    assert many[0].slices["user"][OTHERS] == 2800
    assert [one.feature for one in drift(*many)] == ["length"]
    assert Profile.model_validate_json(many[0].model_dump_json()) == many[0]
