"""Which candidates every interpolation names, and what more when it is told what they scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation import (
    Blocks,
    Dare,
    Interpolation,
    Lines,
    ModelStock,
    Off,
    Slerp,
    Soup,
    TaskArithmetic,
    Ties,
    WiseFT,
)
from ftlib.merging.interpolation.ends import Ends, Score
from ftlib.merging.interpolation.wise_ft import FINEST, is_settled, next_alpha
from ftlib.merging.methods import Average, Lerp
from ftlib.merging.methods import Blocks as BlocksKernel
from ftlib.models.checkpoint import Checkpoint


def checkpoint(name: str, parent: str | None = "probe") -> Checkpoint:
    return Checkpoint(
        weights=name, parent=parent, tokenizer="", phase=name, fresh_head=False, labels=(),
        parameters=1, trained_parameters=1,
    )  # fmt: skip


START, END = checkpoint("probe", None), checkpoint("tune")
SIBLINGS = (checkpoint("a"), checkpoint("b"))


def points(method: Interpolation, scores: Mapping[str, Score] | None = None) -> tuple[Candidate, ...]:
    return method.points(Ends(START, END, SIBLINGS, scores=scores or {}))


def asked_until_done(
    method: Interpolation, worth: Callable[[Candidate], float], error: float = 0.0
) -> list[tuple[Candidate, ...]]:
    """Do what the flow does: measure what is named until nothing new is."""
    rounds = [points(method)]
    while method.adaptive:
        known = {p.digest(): Score(weights=p.digest(), value=worth(p), error=error) for p in rounds[-1]}
        found = points(method, known)
        if {point.digest() for point in found} == {point.digest() for point in rounds[-1]}:
            break
        rounds.append(found)
    return rounds


METHODS: list[Interpolation] = [
    WiseFT(alphas=(0.5,)),
    Lines(alphas=(0.0, 0.5, 1.0), shallow=(0.0, 0.4, 1.0)),
    Blocks(alphas=(0.25, 0.5), tries=7),
    Slerp(alphas=(0.5,)),
    Soup(seeds=(1, 2)),
    Soup(seeds=(1, 2), order="greedy"),
    ModelStock(seeds=(1, 2)),
    TaskArithmetic(seeds=(1, 2), scales=(0.0, 0.3, 1.0)),
    Ties(seeds=(1, 2)),
    Dare(seeds=(1, 2)),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_theta0_is_first_theta1_last_and_names_and_weights_differ(method: Interpolation) -> None:
    rounds = asked_until_done(method, lambda candidate: len(candidate.parts))
    for found in rounds:
        assert (found[0].weights, found[-1].weights) == ("probe", "tune")
        assert len({point.name for point in found}) == len({point.digest() for point in found}) == len(found)
    assert len(rounds[-1]) == method.count()


def test_off_has_the_end_alone() -> None:
    assert [(point.name, point.weights, point.mixes) for point in points(Off())] == [("tune", "tune", False)]
    assert Off().count() == 1


@settings(max_examples=60)
@given(peak=st.floats(0.0, 1.0), width=st.floats(0.2, 3.0), refine=st.integers(1, 6))
def test_refinement_closes_in_on_the_peak_of_a_parabola(peak: float, width: float, refine: int) -> None:
    method = WiseFT(alphas=(0.0, 0.25, 0.5, 0.75, 1.0), refine=refine)
    rounds = asked_until_done(method, lambda candidate: -width * ((candidate.alpha or 0.0) - peak) ** 2)
    alphas = [point.alpha or 0.0 for point in rounds[-1]]
    assert alphas == sorted(alphas)
    assert len(alphas) <= method.count()
    assert min(b - a for a, b in pairwise(alphas)) >= FINEST - 1e-9
    # the vertex of three points of a parabola is its peak, unless that lies beside a point that is there already
    if 0.25 < peak < 0.75:
        assert min(abs(alpha - peak) for alpha in alphas) <= FINEST


def scored(values: Mapping[float, float], error: float = 0.0) -> dict[float, Score]:
    return {alpha: Score(weights=str(alpha), value=value, error=error) for alpha, value in values.items()}


def test_the_next_alpha_is_near_the_best_one() -> None:
    assert next_alpha(scored({0.0: 0.0, 0.5: 1.0, 1.0: 0.0})) == 0.25  # the vertex is there: the wider gap's middle
    assert next_alpha(scored({0.0: 3.0, 0.4: 1.0, 1.0: 0.0})) == 0.2  # best at an end
    assert next_alpha(scored({0.0: 1.0, 0.5: 1.0, 1.0: 1.0})) == 0.25  # flat: toward theta0
    assert next_alpha(scored({0.0: 0.0, 0.005: 1.0, 0.01: 0.0})) is None


@pytest.mark.parametrize(
    ("values", "error", "settled"),
    [
        ({0.0: 0.0, 0.5: 1.0, 1.0: 0.0}, 0.1, False),  # the neighbours are clearly worse
        ({0.0: 0.95, 0.5: 1.0, 1.0: 0.95}, 0.1, True),
        ({0.0: 0.95, 0.5: 1.0, 1.0: 0.8}, 0.1, False),  # one of them is
        ({0.0: 0.95, 0.1: 1.0, 1.0: 1.0}, 0.1, False),  # but the parabola rises to 1.0 + 0.11 at 0.55
        ({0.0: 1.0, 0.5: 0.95, 1.0: 0.0}, 0.1, True),  # best at an end
        ({0.0: 1.0, 0.5: 1.0, 1.0: 1.0}, 0.0, True),
    ],
)
def test_the_peak_is_settled_where_rows_cannot_tell(values: dict[float, float], error: float, settled: bool) -> None:
    assert is_settled(scored(values, error)) is settled


@settings(max_examples=60)
@given(values=st.tuples(*[st.floats(0.0, 0.9)] * 2), place=st.floats(0.1, 0.9), error=st.floats(0.0, 1.0))
def test_what_is_settled_by_numpys_parabola(values: tuple[float, float], place: float, error: float) -> None:
    a, b, c = np.polyfit((0.0, place, 1.0), (values[0], 1.0, values[1]), 2)
    highest = c - b * b / (4 * a)
    assume(abs(highest - 1.0 - error) > 1e-6 and min(abs(1.0 - value - error) for value in values) > 1e-6)
    expected = bool(highest <= 1.0 + error and all(1.0 - value <= error for value in values))
    assert is_settled(scored({0.0: values[0], place: 1.0, 1.0: values[1]}, error)) is expected


def test_refinement_ends_where_rows_cannot_tell() -> None:
    method = WiseFT(alphas=(0.0, 0.25, 0.5, 0.75, 1.0), refine=6)

    def worth(candidate: Candidate) -> float:
        return -(((candidate.alpha or 0.0) - 0.6) ** 2)

    counts = [len(asked_until_done(method, worth, error)[-1]) for error in (0.0, 0.003, 0.03, 0.3)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (11, 5)
    # What was measured stays named, whatever later rounds say of the errors.
    first = asked_until_done(method, worth)[-1]
    known = {p.digest(): Score(weights=p.digest(), value=worth(p), error=1.0) for p in first}
    assert {p.digest() for p in points(method, known)} == known.keys()


def test_modules_and_depth_leave_the_ends_alone() -> None:
    found = points(WiseFT(alphas=(0.5,), modules={"head.*": 1.0}, depth=(0.0, 1.0)))
    assert [point.merge for point in found] == [
        Lerp(alpha=0.0),
        Lerp(alpha=0.5, modules={"head.*": 1.0}, depth=(0.0, 1.0)),
        Lerp(alpha=1.0),
    ]


def test_a_digest_is_the_method_and_its_checkpoints() -> None:
    first = Candidate.between(START, END, 0.5)
    assert Candidate.between(START, END, 0.5).digest() == first.digest()
    others = [
        Candidate.between(START, END, 0.25),
        Candidate.between(END, START, 0.5),
        first.model_copy(update={"merge": Lerp(alpha=0.5, depth=(0.5, 1.0))}),
        *points(Slerp(alphas=(0.5,)))[1:2],
        *points(Soup(seeds=(1,)))[3:4],
    ]
    assert len({first.digest(), *(other.digest() for other in others)}) == 6
    assert first.model_copy(update={"name": "other"}).digest() == first.digest()


def soup_of(found: tuple[Candidate, ...]) -> list[tuple[str, ...]]:
    return [tuple(p.phase for p in point.parts) for point in found if isinstance(point.merge, Average)]


def test_a_uniform_soup_has_everything_in_it() -> None:
    assert soup_of(points(Soup(seeds=(1, 2)))) == [("tune", "a", "b")]


@pytest.mark.parametrize(
    ("scores", "tried"),
    [
        ({"tune": 3, "a": 2, "b": 1, "tune+a": 4, "tune+a+b": 5}, [("tune", "a"), ("tune", "a", "b")]),
        ({"tune": 3, "a": 2, "b": 1, "tune+a": 2.9, "tune+b": 5}, [("tune", "a"), ("tune", "b")]),
        ({"tune": 1, "a": 2, "b": 3, "b+a": 3, "b+a+tune": 0}, [("b", "a"), ("b", "a", "tune")]),  # equal is kept
    ],
)
def test_a_greedy_soup_keeps_what_does_not_make_it_worse(
    scores: dict[str, float], tried: list[tuple[str, ...]]
) -> None:
    """Algorithm 1 of the paper: sorted by score, kept if the mean's score is at least as good."""

    def worth(candidate: Candidate) -> float:
        return scores.get("+".join(part.phase for part in candidate.parts), 0.0)

    rounds = asked_until_done(Soup(order="greedy", seeds=(1, 2)), worth)
    assert soup_of(rounds[0]) == []
    assert soup_of(rounds[-1]) == tried


def test_lines_has_an_axis_for_the_shallow_scale_and_wise_ft_s_own_points_at_1() -> None:
    found = points(Lines(alphas=(0.5, 1.0), shallow=(0.25, 1.0)))
    assert [(p.name, p.alpha) for p in found] == [
        ("alpha=0", 0.0),
        ("alpha=0.5 shallow=0.25", None),
        ("alpha=0.5", 0.5),
        ("alpha=1 shallow=0.25", None),
        ("alpha=1", 1.0),
    ]
    line = points(WiseFT(alphas=(0.5,)))
    assert {p.digest() for p in line} == {p.digest() for p in found if p.alpha is not None}
    assert Lines(alphas=(0.5,), shallow=(0.25,)).places == (0.0, 1.0)


def alphas_of(candidate: Candidate) -> tuple[float, float, float]:
    return candidate.merge.alphas if isinstance(candidate.merge, BlocksKernel) else (candidate.alpha or 0.0,) * 3


@settings(max_examples=30)
@given(peak=st.tuples(*[st.floats(0.2, 0.8)] * 3), tries=st.integers(1, 20))
def test_blocks_are_searched_at_one_mean_and_only_get_better(peak: tuple[float, ...], tries: int) -> None:
    """Of a bowl around a peak, the best of what lies in the plane of that mean is its projection: the search nears it.

    Coordinates of a triangle are no axes of the bowl, so it may stop short of the projection, never behind its start.
    """
    method = Blocks(alphas=(0.0, 0.25, 0.5, 0.75, 1.0), tries=tries)

    def worth(candidate: Candidate) -> float:
        return -sum((a - p) ** 2 for a, p in zip(alphas_of(candidate), peak, strict=True))

    rounds = asked_until_done(method, worth)
    tried = [point for point in rounds[-1] if isinstance(point.merge, BlocksKernel)]
    assert len(rounds[0]) == 5
    assert len(tried) <= tries
    line = [point for point in rounds[-1] if point.alpha not in (None, 0.0, 1.0)]
    best = max(line, key=worth)
    for point in tried:
        assert sum(alphas_of(point)) / 3 == pytest.approx(best.alpha, abs=1e-6)
    if tries == 20:
        at = np.array(alphas_of(best)) + np.array(peak) - np.mean(peak)
        nearest = max([best, *tried], key=worth)
        if (at > 0.05).all() and (at < 0.95).all():
            assert np.abs(np.array(alphas_of(nearest)) - at).max() < 0.1
    known = {p.digest(): Score(weights=p.digest(), value=worth(p)) for p in rounds[-1]}
    assert [p.name for p in points(method, known)] == [p.name for p in rounds[-1]]  # a pure function of the scores


def test_blocks_of_one_mean_begin_at_it() -> None:
    method = Blocks(alphas=(), mean=0.4, step=0.2, tries=3)
    assert method.places == (0.0, 0.4, 1.0)
    rounds = asked_until_done(method, lambda candidate: -alphas_of(candidate)[0])
    assert [alphas_of(p) for p in rounds[-1]][2:-1] == [(0.6, 0.2, 0.4), (0.2, 0.6, 0.4), (0.2, 0.4, 0.6)]


def test_blocks_search_from_a_point_between_the_ends() -> None:
    with pytest.raises(ValidationError, match="no alpha lies between 0 and 1 for the search to begin at"):
        Blocks(alphas=(0.0, 1.0))
    assert Blocks(alphas=(0.0, 1.0), mean=0.4).places == (0.0, 0.4, 1.0)
