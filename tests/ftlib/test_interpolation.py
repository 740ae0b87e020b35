"""Which candidates every interpolation names, and what more when it is told what they scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.artifacts import Candidate, Checkpoint, Estimate, EvalReport, Measured
from ftlib.interpolation import Dare, Interpolation, ModelStock, Off, Slerp, Soup, TaskArithmetic, Ties, WiseFT
from ftlib.interpolation.wise_ft import FINEST, next_alpha
from ftlib.merging import Average, Lerp
from ftlib.stages.interpolate import scores_of


def checkpoint(name: str, parent: str | None = "probe") -> Checkpoint:
    return Checkpoint(
        weights=name, parent=parent, tokenizer="", phase=name, fresh_head=False, labels=(),
        parameters=1, trained_parameters=1,
    )  # fmt: skip


START, END = checkpoint("probe", None), checkpoint("tune")
SIBLINGS = (checkpoint("a"), checkpoint("b"))


def points(method: Interpolation, scores: Mapping[str, float] | None = None) -> tuple[Candidate, ...]:
    return method.points(START, END, SIBLINGS, scores or {})


def asked_until_done(method: Interpolation, worth: Callable[[Candidate], float]) -> list[tuple[Candidate, ...]]:
    """Do what the flow does: measure what is named until nothing new is."""
    rounds = [points(method)]
    while method.adaptive:
        found = points(method, {point.digest(): worth(point) for point in rounds[-1]})
        if {point.digest() for point in found} == {point.digest() for point in rounds[-1]}:
            break
        rounds.append(found)
    return rounds


METHODS: list[Interpolation] = [
    WiseFT(alphas=(0.5,)),
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
        assert (found[0].digest(), found[-1].digest()) == ("probe", "tune")
        assert len({point.name for point in found}) == len({point.digest() for point in found}) == len(found)
    assert len(rounds[-1]) == method.count()


def test_off_has_the_end_alone() -> None:
    assert [(point.name, point.digest(), point.mixes) for point in points(Off())] == [("tune", "tune", False)]
    assert Off().count() == 1


@settings(max_examples=60, deadline=None)
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


def test_the_next_alpha() -> None:
    assert next_alpha({0.0: 0.0, 0.5: 1.0, 1.0: 0.0}) == 0.25  # the vertex is there: the wider gap's middle
    assert next_alpha({0.0: 3.0, 0.4: 1.0, 1.0: 0.0}) == 0.2  # best at an end
    assert next_alpha({0.0: 1.0, 0.5: 1.0, 1.0: 1.0}) == 0.25  # flat: toward theta0
    assert next_alpha({0.0: 0.0, 0.005: 1.0, 0.01: 0.0}) is None


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


def test_scores_are_the_weighted_sum_of_what_was_measured() -> None:
    def report(evaluation: str, **values: dict[str, float]) -> EvalReport:
        cells = [
            Measured(
                candidate=name,
                weights=name,
                alpha=None,
                evaluation=evaluation,
                split="validation",
                rows=9,
                outcomes="",
                metrics={metric: Estimate(value=v, low=v, high=v) for metric, v in of.items()},
                slices={},
            )
            for name, of in values.items()
        ]
        return EvalReport(measured=tuple(cells))

    home = report("home", b={"log_loss": 0.5, "accuracy": 0.9}, a={"log_loss": 1.5, "accuracy": 0.7})
    away = report("away", a={"accuracy": 0.6}, b={"accuracy": 0.2}, c={"accuracy": 1.0})
    terms = {"away/accuracy": 1.0, "home/accuracy": 0.5, "home/log_loss": -2.0}
    found = [(score.weights, score.value) for score in scores_of([home, away], terms)]
    assert found == [("a", pytest.approx(0.6 + 0.35 - 3.0)), ("b", pytest.approx(0.2 + 0.45 - 1.0))]
    assert [score.weights for score in scores_of([home, away], {"away/accuracy": 1.0})] == ["a", "b", "c"]
    assert scores_of([], terms) == ()
