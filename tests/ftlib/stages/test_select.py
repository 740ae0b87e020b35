"""The rules by property, against a few lines of numpy that state them again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import EvalReport, Measured
from ftlib.evaluation.metrics import AUROC, Accuracy, LogLoss
from ftlib.evaluation.selection import Select, Selection
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.merging.interpolation import Off, WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.interpolate import scores_so_far
from ftlib.stages.select import SelectJob, select
from ftlib.workspace import Workspace

EVALUATIONS = {
    name: Evaluation(dataset="rows", metrics=(Accuracy(), LogLoss()), role=role, resamples=200)
    for name, role in (("target", "target"), ("shifted", "shifted"))
}
START, END = (
    Checkpoint(
        weights=name, parent=None, tokenizer="t", phase=name, fresh_head=False, labels=("a", "b"),
        parameters=1, trained_parameters=1, uri=f"/here/{name}",
    )
    for name in ("probe", "tune")
)  # fmt: skip
Right = Sequence[bool] | np.ndarray
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def answers(right: Right) -> LabelOutcomes:
    """Return two-label outcomes; log loss is 2 for a wrong row and 1 for a right one."""
    right = np.asarray(right, bool)
    gold = np.arange(len(right)) % 2
    return LabelOutcomes(
        row_ids=tuple(map(str, range(len(right)))),
        nll=np.where(right, 1.0, 2.0),
        targets=np.ones(len(right), np.int64),
        labels=("a", "b"),
        gold=gold,
        predicted=np.where(right, gold, 1 - gold),
        probabilities=np.full((len(right), 2), 0.5),
    )


def report(work: Workspace, name: str, members: Sequence[Candidate], right: Sequence[Right]) -> EvalReport:
    cells: list[Measured] = []
    for i, (member, rows) in enumerate(zip(members, right, strict=True)):
        table, file = answers(rows), f"outcomes/{name}-{i}.parquet"
        (work.root / file).parent.mkdir(parents=True, exist_ok=True)
        (work.root / file).write_bytes(table.to_parquet())
        cells.append(
            Measured(
                candidate=member.name,
                weights=member.digest(),
                alpha=member.alpha,
                evaluation=name,
                split="validation",
                rows=len(table),
                outcomes=file,
                metrics=estimates(table, (Accuracy(), LogLoss()), Resampling(100, 0.95, 0)),
            )
        )
    return EvalReport(measured=tuple(cells))


def line(count: int) -> tuple[Candidate, ...]:
    return WiseFT(alphas=tuple(i / (count - 1) for i in range(count))).points(Ends(START, END))


def run(folder: Path, rule: Select, target: Sequence[Right], shifted: Sequence[Right]) -> Selection:
    """Select among evenly spaced alphas by which rows each gets right."""
    members, work = line(len(target)), Workspace(folder / "work")
    reports = tuple(report(work, name, members, rows) for name, rows in (("target", target), ("shifted", shifted)))
    job = SelectJob(candidates=Candidates(members=members), reports=reports, evaluations=EVALUATIONS, select=rule)
    first = select(job, work)
    assert select(job, work) == first
    return first


def position(selection: Selection, count: int) -> int:
    return round((selection.chosen.alpha or 0.0) * (count - 1))


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows right on target and shifted for each of 2 to 6 candidates; they differ in a few rows, as real ones do."""
    count, random = draw(st.integers(2, 6)), np.random.default_rng(draw(st.integers(0, 10_000)))

    def one() -> list[np.ndarray]:
        start = random.random(60) < 0.7
        return [start ^ (random.random(60) < draw(st.sampled_from([0.0, 0.05, 0.2]))) for _ in range(count)]

    return one(), one()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("select")


@quick
@given(rows=sweeps())
def test_best_is_the_argmax_and_of_equals_the_nearest_to_theta0(
    rows: tuple[list[np.ndarray], list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    target, shifted = rows
    right = [int(r.sum()) for r in shifted]
    for by in ("shifted/accuracy", "shifted/log_loss"):
        got = run(tmp_path_factory.mktemp("best"), Select(by=by), target, shifted)
        assert position(got, len(right)) == right.index(max(right))


def upper_bounds(right: Sequence[np.ndarray], seed: int, confidence: float = 0.95) -> np.ndarray:
    """Return every candidate's one-sided bound on its loss of accuracy against the better end, the plain way."""
    end = max((0, len(right) - 1), key=lambda i: (right[i].sum(), -i))
    draws = np.concatenate(list(Resampling(200, confidence, seed).draws(len(right[0]))))
    lost = right[end].astype(float) - np.array(right, float)
    return np.array([np.sort(loss[draws].mean(axis=1)) for loss in lost])[:, int(0.95 * 199) : int(0.95 * 199) + 2]


@quick
@given(rows=sweeps(), margin=st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.3]))
def test_constrained_takes_the_best_of_those_that_are_not_inferior(
    rows: tuple[list[np.ndarray], list[np.ndarray]], margin: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target, shifted = rows
    rule = Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=margin)
    chosen = position(run(tmp_path_factory.mktemp("bound"), rule, target, shifted), len(target))
    low, high = upper_bounds(target, seed=0).T  # the quantile lies between these two resamples
    surely = [i for i in range(len(target)) if high[i] <= margin - 1e-9]
    maybe = [i for i in range(len(target)) if low[i] <= margin + 1e-9]
    assert chosen in maybe
    assert shifted[chosen].sum() >= max((shifted[i].sum() for i in surely), default=0)


def test_a_drop_that_may_be_larger_by_chance_is_not_allowed(folder: Path) -> None:
    """What the measured value hides: 1 point lost on 100 rows may as well be 4."""
    start, end = np.ones(100, bool), np.ones(100, bool)
    end[:9], start[:10] = False, False  # one more row wrong ...
    middle = np.ones(100, bool)
    middle[20:30] = False  # ... and the same number wrong, but other rows: it may have lost a lot
    rule = Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=0.03)
    got = run(folder, rule, [start, middle, end], [end, start | end, middle])
    assert got.chosen.alpha == 0.0
    assert "(2 of 3)" in got.why


@pytest.mark.slow
def test_an_inferior_candidate_is_rarely_let_through(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its true loss is just max_drop, so it may pass in about 5 % of all samples."""
    random, passed, trials = np.random.default_rng(1), 0, 120
    rule = Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=0.1)
    for _ in range(trials):
        best = random.random(300) < 0.9
        worse = best & (random.random(300) < 8 / 9)  # 0.8 on average
        wins = [np.zeros(300, bool), np.ones(300, bool), np.zeros(300, bool)]
        got = run(tmp_path_factory.mktemp("null"), rule, [worse, worse, best], wins)
        passed += got.chosen.alpha == 0.5
    assert passed <= 14  # the 99.9 % quantile of binomial(120, 0.05), and resampling error


@quick
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=7))
@example([(40, 0), (10, 20), (0, 40)])
@example([(40, 0), (20, 20), (0, 40)])
def test_the_knee_lies_furthest_beyond_the_line_between_the_best(
    tmp_path_factory: pytest.TempPathFactory, counts: list[tuple[int, int]]
) -> None:
    def right(count: int) -> np.ndarray:
        return np.arange(40) < count

    rule = Select(rule="knee", by="shifted/accuracy", subject_to="target/accuracy")
    target, shifted = [right(t) for t, _ in counts], [right(s) for _, s in counts]
    got = run(tmp_path_factory.mktemp("knee"), rule, target, shifted)
    chosen = position(got, len(counts))
    points = np.array(counts, float)
    ahead, bound = points[points[:, 1].argmax()], points[points[:, 0].argmax()]
    scale = np.abs(bound - ahead)
    if not scale.all():  # one candidate is the best by one metric and equals the best by the other
        assert (points[chosen] == points.max(axis=0)).all()
        return
    along = (bound - ahead) / scale
    offset = (points - ahead) / scale
    distance = (along[0] * offset[:, 1] - along[1] * offset[:, 0]) / np.hypot(*along)  # signed, beyond is positive
    if np.isclose(distance.max(), 0.0):  # all on the line or short of it
        assert chosen == points[:, 1].argmax()
        assert "No candidate lies beyond the straight line" in got.why
        assert f"no knee, and {got.chosen.name} is taken" in got.why
        return
    assert got.why.startswith(f"{got.chosen.name} lies furthest beyond the straight line")
    assert np.isclose(distance[chosen], distance.max())
    assert not (np.isclose(distance, distance.max())[:chosen]).any()  # of equals, the one nearest to theta0


def test_one_standard_error_prefers_what_changed_least(folder: Path) -> None:
    random = np.random.default_rng(0)
    best = random.random(400) < 0.8
    near = best.copy()
    near[np.flatnonzero(best)[:4]] = False  # one row worse in all, by seven that differ: less than sqrt(7)
    near[np.flatnonzero(~best)[:3]] = True
    far = best & (random.random(400) < 0.8)
    rule = Select(rule="one_standard_error", by="target/accuracy")
    got = run(folder, rule, [far, near, near, best], [best] * 4)
    assert position(got, 4) == 1
    assert "within one standard error of the best" in got.rule
    words = (
        r"alpha=1 has the best target/accuracy, 0\.\d{4}\. alpha=0\.333333, with 0\.\d{4}, is the nearest to theta0 of"
    )
    assert re.match(f"{words} the candidates within one standard error of it", got.why)
    alone = run(folder / "b", rule, [far, far, best], [best] * 3)
    assert re.match(
        r"alpha=1 has the best .*, and no candidate nearer to theta0 is within one standard error", alone.why
    )
    drop = best.mean() - near.mean()
    assert 0 < drop < (best.astype(float) - near).std() / 20  # numpy's own standard error of the difference


def test_fixed_takes_the_alpha_and_looks_at_nothing(folder: Path) -> None:
    bad, good = np.zeros(20, bool), np.ones(20, bool)
    got = run(folder, Select(rule="fixed", alpha=0.5, by="target/accuracy"), [good, bad, good], [good, bad, good])
    assert got.chosen.alpha == 0.5
    with pytest.raises(RecipeError, match=r"no candidate lies at 0.4; there are alpha=0, alpha=0.5, alpha=1"):
        run(folder / "b", Select(rule="fixed", alpha=0.4, by="target/accuracy"), [good] * 3, [good] * 3)


def test_a_sum_of_metrics_weighs_and_turns_them(folder: Path) -> None:
    def right(count: int) -> np.ndarray:
        return np.arange(50) < count

    target, shifted = [right(k) for k in (40, 44, 45)], [right(k) for k in (45, 44, 40)]
    rule = Select(by="target/accuracy", plus={"shifted/log_loss": 0.5})
    got = run(folder, rule, target, shifted)
    utility = [t.mean() - 0.5 * (1 + (1 - s.mean())) for t, s in zip(target, shifted, strict=True)]
    assert position(got, 3) == int(np.argmax(utility)) == 1
    terms = "(target/accuracy - 0.5 × shifted/log_loss)"
    assert f"alpha=0.5 has the best {terms} of 3 candidates, {max(utility):.4f}." in got.why
    assert f"The ends have (target/accuracy - 0.5 × shifted/log_loss) = {utility[0]:.4f} (alpha=0) and" in got.why


def test_the_words_of_a_sum_add_up_to_its_number(folder: Path) -> None:
    rows = [np.arange(50) < k for k in (40, 44)]
    rule = Select(by="target/log_loss", plus={"shifted/log_loss": -2.0, "target/accuracy": 1.0})
    got = run(folder, rule, rows, rows)
    terms = r"\(-target/log_loss \+ 2 × shifted/log_loss \+ target/accuracy\)"
    best = re.search(rf"has the best {terms} of 2 candidates, (-?\d\.\d+)\. The ends", got.why)
    assert best, got.why
    losses = [1 + (1 - row.mean()) for row in rows]
    sums = [-loss + 2 * loss + row.mean() for loss, row in zip(losses, rows, strict=True)]
    assert float(best[1]) == pytest.approx(max(sums), abs=1e-4)


def test_a_point_that_beats_both_ends_is_told_from_luck(tmp_path_factory: pytest.TempPathFactory) -> None:
    random = np.random.default_rng(0)
    end = random.random(500) < 0.7
    real, lucky = end | (random.random(500) < 0.2), end.copy()
    lucky[np.flatnonzero(~end)[:2]] = True
    rule = Select(by="shifted/accuracy")
    got = run(tmp_path_factory.mktemp("a"), rule, [end] * 3, [end, real, end])
    assert got.beats_both_ends == ("alpha=0.5",)
    assert "It beats both ends significantly (paired, 95%, Holm over 1 candidate)" in got.why
    got = run(tmp_path_factory.mktemp("b"), rule, [end] * 4, [end, lucky, end, end])
    assert got.beats_both_ends == ()
    assert "No candidate beats both ends significantly (paired, 95%, Holm over 2 candidates)" in got.why
    fixed = Select(rule="fixed", alpha=1.0, by="shifted/accuracy")
    got = run(tmp_path_factory.mktemp("c"), fixed, [end] * 3, [end, real, end])
    assert "It does not beat both ends significantly (paired, 95%, Holm over 1 candidate); alpha=0.5 would" in got.why


def test_the_choice_is_explained_with_its_numbers(folder: Path) -> None:
    def right(count: int) -> np.ndarray:
        return np.arange(100) < count

    rule = Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=0.05)
    target, shifted = [right(k) for k in (60, 70, 79, 80)], [right(k) for k in (50, 90, 60, 40)]
    got = run(folder, rule, target, shifted)
    assert got.chosen.name == "alpha=0.666667"
    assert re.sub(r"at most 0\.0\d{3}", "at most", got.why) == (
        "alpha=0.666667 has the best shifted/accuracy, 0.6000, of the candidates that keep target/accuracy within "
        "0.05 of the better end's (2 of 4). Its target/accuracy is 0.7900; the better end, alpha=1, has 0.8000, and "
        "the loss is at most with 95% confidence. The ends have shifted/accuracy 0.5000 (alpha=0) and 0.4000 "
        "(alpha=1). It beats both ends significantly (paired, 95%, Holm over 2 candidates)."
    )
    assert "whose target/accuracy is, with 95% confidence, at most 0.05 worse than that of the better end" in got.rule
    alone = run(folder / "b", rule, [right(60), right(80)], [right(50), right(40)])
    assert alone.why.startswith("alpha=1 has the best shifted/accuracy, 0.4000, of the candidates that keep")
    assert "(1 of 2). It is the better end by target/accuracy, 0.8000. The ends have" in alone.why


def test_the_chosen_candidate_knows_where_its_ends_are_also_when_read_back(folder: Path) -> None:
    rows = [np.zeros(5, bool), np.ones(5, bool)]
    assert run(folder, Select(by="shifted/accuracy"), rows, rows).chosen.end.uri == "/here/tune"


def test_without_interpolation_the_end_is_chosen(folder: Path) -> None:
    members, work = Off().points(Ends(START, END)), Workspace(folder)
    assert [(member.name, member.weights) for member in members] == [("tune", "tune")]
    reports = tuple(report(work, name, members, [[True, False]]) for name in EVALUATIONS)
    rule = Select(rule="constrained", by="shifted/accuracy", subject_to="target/accuracy", max_drop=0.0)
    job = SelectJob(candidates=Candidates(members=members), reports=reports, evaluations=EVALUATIONS, select=rule)
    got = select(job, work)
    assert got.chosen.name == "tune"
    assert "ends" not in got.why


def test_what_is_missing_is_named(folder: Path) -> None:
    members, work = line(2), Workspace(folder)
    whole = report(work, "shifted", members, [[True], [False]])
    job = SelectJob(
        candidates=Candidates(members=members),
        reports=(EvalReport(measured=whole.measured[:1]),),
        evaluations=EVALUATIONS,
        select=Select(by="shifted/accuracy"),
    )
    with pytest.raises(RecipeError, match="'shifted/accuracy' was not measured for alpha=1"):
        select(job, work)
    with pytest.raises(RecipeError, match="'elsewhere/accuracy' was not measured"):
        select(job.model_copy(update={"select": Select(by="elsewhere/accuracy")}), work)
    (work.root / whole.measured[1].outcomes).unlink()
    with pytest.raises(StorageError, match="is not a table of outcomes"):
        select(job.model_copy(update={"reports": (whole,)}), work)


def test_a_metric_that_the_rows_do_not_define_decides_nothing(folder: Path) -> None:
    members, work = line(3), Workspace(folder / "undefined")
    whole = report(work, "shifted", members, [[True], [False], [True]])  # one row has one label
    nothing = estimates(answers([True]), (AUROC(),), Resampling(100, 0.95, 0))
    cells = tuple(cell.model_copy(update={"metrics": {**cell.metrics, **nothing}}) for cell in whole.measured)
    evaluations = {"shifted": Evaluation(dataset="rows", metrics=(Accuracy(), AUROC()))}
    for rule in (
        Select(by="shifted/auroc"),
        Select(rule="constrained", by="shifted/accuracy", subject_to="shifted/auroc", max_drop=0.1),
        Select(by="shifted/accuracy", plus={"shifted/auroc": 0.5}),
    ):
        job = SelectJob(
            candidates=Candidates(members=members),
            reports=(EvalReport(measured=cells),),
            evaluations=evaluations,
            select=rule,
        )
        with pytest.raises(
            DataError,
            match=r"^select: 'shifted/auroc' is undefined for alpha=0 on the 1 validation row of evaluation 'shifted': "
            "there is no label that some rows have and others have not; add such rows, or choose by another metric$",
        ):
            select(job, work)
    fixed = job.model_copy(update={"select": Select(rule="fixed", alpha=0.5, by="shifted/auroc")})
    assert select(fixed, work).why == "alpha=0.5 was fixed beforehand; shifted/auroc is undefined."


def test_an_adaptive_method_is_told_values_and_paired_errors(folder: Path) -> None:
    random = np.random.default_rng(0)
    shifted = [random.random(400) < share for share in (0.6, 0.8, 0.7)]
    target = [random.random(300) < share for share in (0.9, 0.8, 0.85)]
    work, members = Workspace(folder), line(3)
    reports = [report(work, "shifted", members, shifted), report(work, "target", members, target)]
    recipe: Any = SimpleNamespace(
        select=Select(by="shifted/accuracy", plus={"target/log_loss": 0.5}), evaluations=EVALUATIONS, seed=3
    )
    told = {score.weights: score for score in scores_so_far(members, reports, recipe, work)}
    merits = [s - 0.5 * (2 - t) for s, t in zip(map(np.mean, shifted), map(np.mean, target), strict=True)]
    assert [told[member.digest()].value for member in members] == pytest.approx(merits)
    best = int(np.argmax(merits))
    for i, member in enumerate(members):
        parts = (shifted[best].astype(float) - shifted[i], 0.5 * (target[best].astype(float) - target[i]))
        error = np.sqrt(sum(part.var() / len(part) for part in parts))  # of independent sets of rows
        assert told[member.digest()].error == pytest.approx(error, rel=0.2, abs=1e-12)
