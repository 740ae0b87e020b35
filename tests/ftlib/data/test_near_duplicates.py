"""Against brute force over all pairs with Python's own sets."""

from __future__ import annotations

import random
from functools import cache, partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ftlib.data.identity import folded
from ftlib.data.near_duplicates import (
    PERMUTATIONS,
    NearTexts,
    Side,
    Suspect,
    bands_and_rows,
    jaccard,
    near_copies,
    own_shingles,
    shingles,
    sketch,
)

slow = partial(pytest.param, marks=pytest.mark.slow)


@cache
def runs(text: str) -> frozenset[str]:
    one = folded(text) or ""
    return frozenset(one[i : i + 5] for i in range(max(len(one) - 4, 1)))


def alike(one: str, other: str) -> float:
    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


def texts(rows: int, seed: int) -> list[str]:
    """Texts of some 40 words, and for half of them a copy in which up to five words differ."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzäß漢", k=rng.randint(2, 9))) for _ in range(4000)]
    found: list[str] = []
    while len(found) < rows:
        text = rng.choices(words, k=rng.randint(30, 50))
        found.append(" ".join(text))
        if rng.random() < 0.5:
            for _ in range(rng.randint(0, 5)):
                text[rng.randrange(len(text))] = rng.choice(words)
            found.append(" ".join(text).upper())
    return found[:rows]


def colliding(sketches: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which rows share a band with another one."""
    suspected = np.zeros(len(sketches), bool)
    for band in sketches.T:
        order = np.argsort(band, kind="stable")
        same = np.flatnonzero(band[order][1:] == band[order][:-1])
        suspected[order[same]] = True
        suspected[order[same + 1]] = True
    return suspected


def suspects(
    rows: list[str], threshold: float, held_out: set[int] = frozenset(), labels: list[str] | None = None
) -> list[Suspect]:
    bands = sketch(rows, threshold)
    near = colliding(bands)
    ids = [f"{random.Random(text).getrandbits(64):016x}" for text in rows]  # by text, whatever the order
    return [
        Suspect(
            i,
            "test" if i in held_out else "train",
            ids[i],
            labels[i] if labels else None,
            bands[i].tolist(),
            own_shingles(text),
        )
        for i, text in enumerate(rows)
        if near[i]
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=2, max_size=6))
@settings(max_examples=100)
def test_shingles_are_the_runs_of_each_text(rows: list[str]) -> None:
    hashes, offsets = shingles(rows)
    assert offsets[-1] == len(hashes)
    for one, other in combinations(rows, 2):
        assert jaccard(own_shingles(one), own_shingles(other)) == pytest.approx(alike(one, other))
    for i, text in enumerate(rows):
        assert len(set(hashes[offsets[i] : offsets[i + 1]].tolist())) == len(runs(text))


@pytest.mark.parametrize("threshold", [0.6, slow(0.7), 0.8, slow(0.9), 0.95])
def test_a_band_finds_pairs_as_often_as_theory_says(threshold: float) -> None:
    """Pairs of sets with a known Jaccard index: the share that collides is binomial around 1 - (1 - J^r)^b."""
    bands, rows = bands_and_rows(threshold)
    assert bands * rows <= PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** bands >= 0.95
    rng, pairs = random.Random(7), 150
    for share in (threshold, threshold - 0.25):
        union = 190
        common = round(share * union)
        found = 0
        for _ in range(pairs):
            letters = [chr(0x4E00 + code) for code in rng.sample(range(20_000), union)]
            # Runs of five equal letters, each text apart: a set with exactly one run for each letter and no other.
            one = sketch_of(letters[: (union + common) // 2], threshold)
            other = sketch_of(letters[(union - common) // 2 :], threshold)
            found += bool(set(one) & set(other))
        exact = (2 * ((union + common) // 2) - union) / union
        expected = 1 - (1 - exact**rows) ** bands
        assert abs(found - pairs * expected) <= 4 * (pairs * expected * (1 - expected)) ** 0.5 + 3


def sketch_of(letters: list[str], threshold: float) -> list[int]:
    """Return the bands of a set of runs: minima are what MinHash keeps, so those of single runs give the set's."""
    from rensa import RMinHash

    hashes = shingles([letter * 5 for letter in letters])[0]
    bands, rows = bands_and_rows(threshold)
    minima = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, np.array([0, len(hashes)], np.uint64), PERMUTATIONS, 42
    ).to_rows()[0]
    return [hash((band, *minima[band * rows : (band + 1) * rows])) for band in range(bands)]


@pytest.mark.parametrize("threshold", [slow(0.7), 0.8, slow(0.9)])
def test_what_is_dropped_is_near_and_what_stays_is_not(threshold: float) -> None:
    rows = texts(400, seed=3)
    held_out = set(range(0, 400, 7))
    found = suspects(rows, threshold, held_out)
    dropped = near_copies(found, partial(NearTexts, threshold))
    ids = {row.place: row.row_id for row in found}
    assert not held_out & dropped.keys()
    staying = [i for i in range(400) if i not in dropped and i not in held_out]
    for i, reason in dropped.items():
        if reason == "near_leaked":
            assert any(alike(rows[i], rows[j]) >= threshold for j in held_out)
        else:
            assert any(alike(rows[i], rows[j]) >= threshold and ids[j] < ids[i] for j in staying if j in ids)
    pairs = [(i, j) for i, j in combinations(range(400), 2) if alike(rows[i], rows[j]) >= threshold]
    assert len(pairs) > 40
    left = [(i, j) for i, j in pairs if i in staying and (j in staying or j in held_out)]
    left += [(i, j) for i, j in pairs if i in held_out and j in staying]
    assert len(left) <= 0.05 * len(pairs)
    assert {"near_leaked", "near_duplicate"} == set(dropped.values())


def test_the_order_of_rows_decides_nothing() -> None:
    rows = texts(300, seed=5)
    held_out = {text for i, text in enumerate(rows) if i % 9 == 0}
    answers = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        dropped = near_copies(
            suspects(rows, 0.8, {i for i, text in enumerate(rows) if text in held_out}), partial(NearTexts, 0.8)
        )
        answers.append({rows[i]: reason for i, reason in dropped.items()})
    assert answers[0] == answers[1] == answers[2] != {}


def test_near_texts_with_different_labels_both_stay() -> None:
    rows = [f"the {word} parcel number seven arrived late and the box was open" for word in ("first", "frst", "fist")]
    found = suspects(rows, 0.6, labels=["late", "late", "open"])
    assert len(found) == 3
    assert list(near_copies(found, partial(NearTexts, 0.6)).values()) == ["near_duplicate"]
    assert near_copies(found, partial(NearTexts, 0.6)).keys() < {0, 1}
    assert near_copies(suspects(rows, 0.6, {2}, ["late", "late", "open"]), partial(NearTexts, 0.6)) == {
        0: "near_leaked",
        1: "near_leaked",
    }


def test_a_validation_row_near_a_test_row_goes_and_takes_no_training_row_with_it() -> None:
    stem = "the parcel arrived late and the box was open, said the man at door "
    rows = [stem + tail for tail in ("number one", "number two", "number two of a hundred", "number one")]
    sides: list[Side] = ["test", "validation", "train", "elsewhere"]

    def dropped(wanted: list[Side]) -> set[Side]:
        found = [row._replace(side=sides[row.place]) for row in suspects(rows, 0.8) if sides[row.place] in wanted]
        return {
            sides[place]
            for place, reason in near_copies(found, partial(NearTexts, 0.8)).items()
            if reason == "near_leaked"
        }

    assert alike(rows[0], rows[1]) >= 0.8 <= alike(rows[1], rows[2])
    assert alike(rows[0], rows[2]) < 0.8
    assert dropped(["test", "validation", "train"]) == {"validation"}
    assert dropped(["validation", "train"]) == {"train"}
    assert dropped(["validation", "elsewhere"]) == set()


def test_a_family_of_rows_just_below_the_threshold_is_not_compared_pair_by_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(0)
    frame = " ".join("".join(rng.choices("abcdefgh", k=6)) for _ in range(22))
    rows = [frame + " " + " ".join("".join(rng.choices("abcdefgh", k=6)) for _ in range(5)) for _ in range(800)]
    compared = 0

    def counted(one: np.ndarray, other: np.ndarray) -> float:
        nonlocal compared
        compared += 1
        return jaccard(one, other)

    monkeypatch.setattr("ftlib.data.near_duplicates.jaccard", counted)
    assert near_copies(suspects_once(rows, 0.8), partial(NearTexts, 0.8)) == {}
    assert compared <= 64 * len(rows)


def suspects_once(rows: list[str], threshold: float) -> list[Suspect]:
    bands = sketch(rows, threshold)
    near = colliding(bands)
    assert near.mean() > 0.9
    return [
        Suspect(i, "train", f"{i:08}", None, bands[i].tolist(), own_shingles(rows[i])) for i in np.flatnonzero(near)
    ]


def test_nothing_is_near_nothing() -> None:
    assert sketch([], 0.8).shape == (0, bands_and_rows(0.8)[0])
    assert not colliding(sketch(["one text", "quite another"], 0.8)).any()
    assert colliding(sketch(["", "", "x"], 0.8)).tolist() == [True, True, False]
