"""The rules by property, against a few lines that state them again."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.artifacts import Candidate, Candidates, Checkpoint, Estimate, EvalReport, Measured, Selection
from ftlib.errors import RecipeError
from ftlib.interpolation import Off, WiseFT
from ftlib.metrics import Accuracy, LogLoss
from ftlib.recipe import Evaluation, Select
from ftlib.stages.select import SelectJob, select
from ftlib.workspace import Workspace

EVALUATIONS = {
    name: Evaluation(dataset="rows", metrics=(Accuracy(), LogLoss()), role=role)
    for name, role in (("target", "target"), ("shifted", "shifted"))
}
START, END = (
    Checkpoint(
        weights=name, parent=None, tokenizer="t", phase=name, fresh_head=False, labels=("a", "b"),
        parameters=1, trained_parameters=1, uri=f"/here/{name}",
    )
    for name in ("probe", "tune")
)  # fmt: skip


def report(name: str, *values: tuple[Candidate, tuple[float, float]]) -> EvalReport:
    cells = [
        Measured(
            candidate=candidate.name,
            weights=candidate.digest(),
            alpha=candidate.alpha,
            evaluation=name,
            split="validation",
            rows=1,
            outcomes="",
            metrics={
                kind: Estimate(value=value, low=value, high=value)
                for kind, value in zip(("accuracy", "log_loss"), pair, strict=True)
            },
        )
        for candidate, pair in values
    ]
    return EvalReport(measured=tuple(cells))


def run(rule: Select, target: list[float], shifted: list[float]) -> Selection:
    """Select among evenly spaced alphas; log loss is 1 - accuracy."""
    alphas = [i / (len(target) - 1) for i in range(len(target))]
    members = WiseFT(alphas=tuple(alphas)).points(START, END, (), {})
    reports = tuple(
        report(name, *((member, (value, 1 - value)) for member, value in zip(members, values, strict=True)))
        for name, values in (("target", target), ("shifted", shifted))
    )
    job = SelectJob(candidates=Candidates(members=members), reports=reports, evaluations=EVALUATIONS, select=rule)
    with tempfile.TemporaryDirectory() as folder:
        first = select(job, Workspace(folder))
        assert select(job, Workspace(folder)) == first
    return first


def position(selection: Selection, count: int) -> int:
    return round(selection.chosen.alpha * (count - 1))


SCORES = st.lists(st.tuples(*[st.integers(0, 20).map(lambda k: k / 20)] * 2), min_size=2, max_size=11)


@settings(max_examples=60, deadline=None)
@given(scores=SCORES)
def test_best_is_the_argmax_and_of_equals_the_nearest_to_theta0(scores: list[tuple[float, float]]) -> None:
    target, shifted = map(list, zip(*scores, strict=True))
    chosen = position(run(Select(by="shifted/accuracy"), target, shifted), len(scores))
    assert chosen == shifted.index(max(shifted))
    by_loss = run(Select(by="shifted/log_loss"), target, shifted)
    losses = [1 - value for value in shifted]
    assert position(by_loss, len(scores)) == losses.index(min(losses))


@settings(max_examples=100, deadline=None)
@given(scores=SCORES, steps=st.integers(0, 10), bound=st.sampled_from(["accuracy", "log_loss"]))
def test_constrained_never_goes_beyond_the_bound_and_takes_the_best_within(
    scores: list[tuple[float, float]], steps: int, bound: str
) -> None:
    target, shifted = map(list, zip(*scores, strict=True))
    rule = Select(rule="constrained", by="shifted/accuracy", subject_to=f"target/{bound}", max_drop=steps / 20)
    chosen = position(run(rule, target, shifted), len(scores))
    # In twentieths the bound is exact, so a drop of just max_drop must be allowed.
    best_end = max(round(target[0] * 20), round(target[-1] * 20))
    allowed = [i for i, value in enumerate(target) if round(value * 20) >= best_end - steps]
    assert chosen in allowed
    assert shifted[chosen] == max(shifted[i] for i in allowed)
    assert chosen == min(i for i in allowed if shifted[i] == shifted[chosen])


def test_the_choice_is_explained_with_its_numbers() -> None:
    rule = Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=0.02)
    got = run(rule, [0.60, 0.70, 0.79, 0.80], [0.5, 0.9, 0.6, 0.4])
    assert got.chosen.name == "alpha=0.666667"
    assert "shifted/accuracy 0.6000 is the best among the 2 of 4 candidates that stay within 0.02" in got.why
    assert "alpha=1 with target/accuracy 0.8000" in got.why
    assert "its own is 0.7900" in got.why
    assert "0.5000 (alpha=0) and 0.4000 (alpha=1)" in got.why
    assert "at most 0.02 worse" in got.rule


def test_the_chosen_candidate_knows_where_its_ends_are_also_when_read_back() -> None:
    got = run(Select(by="shifted/accuracy"), [0.1, 0.2], [0.3, 0.4])
    assert got.chosen.end.uri == "/here/tune"


def test_without_interpolation_the_end_is_chosen(tmp_path_factory: pytest.TempPathFactory) -> None:
    members = Off().points(START, END, (), {})
    assert [(member.name, member.digest()) for member in members] == [("tune", "tune")]
    job = SelectJob(
        candidates=Candidates(members=members),
        reports=(report("shifted", (members[0], (0.4, 0.6))), report("target", (members[0], (0.1, 0.9)))),
        evaluations=EVALUATIONS,
        select=Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=0.0),
    )
    got = select(job, Workspace(tmp_path_factory.mktemp("work")))
    assert got.chosen.name == "tune"
    assert "the ends" not in got.why


def test_a_metric_that_was_not_measured_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    members = WiseFT(alphas=()).points(START, END, (), {})
    job = SelectJob(
        candidates=Candidates(members=members),
        reports=(report("shifted", (members[0], (0.4, 0.6))),),
        evaluations=EVALUATIONS,
        select=Select(by="shifted/accuracy"),
    )
    with pytest.raises(RecipeError, match="'shifted/accuracy' was not measured for alpha=1"):
        select(job, Workspace(tmp_path_factory.mktemp("work")))
