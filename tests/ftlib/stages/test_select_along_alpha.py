"""Rules that know alpha or the distance from the start: by the curve, within a budget of KL, by DaWin's mean alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.processor import Processor
from ftlib.errors import RecipeError
from ftlib.evaluation import divergence
from ftlib.evaluation.bootstrap import Resampling, resamples
from ftlib.evaluation.divergence import token_divergence
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, KLToStart, Moved
from ftlib.evaluation.metrics import Accuracy, Perplexity
from ftlib.evaluation.selection import Select
from ftlib.evaluation.smoothing import smooth
from ftlib.kinds.loading import load
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.merging.candidates import Candidates
from ftlib.merging.interpolation import WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.stages.diverge import DivergeJob, diverge
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.select import SelectJob, select
from ftlib.testing import tiny_checkpoint, tiny_lm_tokenizer, tiny_prepared, tiny_prepared_as, tiny_prompts, tiny_rows
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace
from tests.ftlib.stages.test_select import EVALUATIONS, answers, line, report


def job(work: Workspace, rule: Select, target: Sequence[np.ndarray], kl: KLToStart | None = None) -> SelectJob:
    """Return the job that chooses among evenly spaced alphas by which rows each gets right."""
    members = line(len(target))
    reports = tuple(report(work, name, members, target) for name in ("target", "shifted"))
    return SelectJob(
        candidates=Candidates(members=members), reports=reports, evaluations=EVALUATIONS, select=rule, kl=kl
    )


def moved(*nats: float) -> KLToStart:
    cells = [Moved(candidate="any", kl=Estimate(value=x, low=0.9 * x, high=1.2 * x), at_most=1.1 * x) for x in nats]
    return KLToStart(evaluation="target", moved=tuple(cells))


def right(count: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < count


def test_by_the_curve_a_lone_peak_is_luck_and_the_hill_beside_it_is_not(tmp_path: Path) -> None:
    """One point stands out where its neighbours are bad; the hill is lower and broad."""
    random, rows = np.random.default_rng(0), 400
    shares = (0.62, 0.605, 0.6, 0.61, 0.64, 0.665, 0.68, 0.675, 0.665, 0.65, 0.63)
    target = [random.permutation(rows) < share * rows for share in shares]
    target[1] = random.permutation(rows) < 0.685 * rows
    plain = select(job(Workspace(tmp_path / "a"), Select(by="target/accuracy"), target), Workspace(tmp_path / "a"))
    work = Workspace(tmp_path / "b")
    got = select(job(work, Select(by="target/accuracy", smoothed=True), target), work)
    assert plain.chosen.alpha == 0.1
    assert 0.5 <= (got.chosen.alpha or 0.0) <= 0.8
    assert "the best expected target/accuracy of 11 candidates" in got.rule
    assert "; the best is alpha=0.1, 0.6850)" in got.why
    assert (len(got.expected), len(got.curve)) == (11, 51)
    assert not plain.expected
    assert not plain.curve


@pytest.mark.parametrize("by", ["target/accuracy", "target/log_loss"])
def test_what_is_expected_is_the_curve_through_the_paired_outcomes(tmp_path: Path, by: str) -> None:
    random, work = np.random.default_rng(1), Workspace(tmp_path)
    target = [random.random(200) < share for share in (0.5, 0.6, 0.7, 0.6)]
    got = select(job(work, Select(by=by, smoothed=True), target), work)
    draws = Resampling(200, 0.95, 0)
    drawn = np.array([resamples(Accuracy(), answers(rows), draws) for rows in target])
    alphas = [0.0, 1 / 3, 2 / 3, 1.0]
    curve = smooth(alphas, np.array([rows.mean() for rows in target]), np.cov(drawn), alphas)
    expected = curve.expected if by == "target/accuracy" else 2.0 - curve.expected  # a wrong row costs 2, a right one 1
    reach = scipy.stats.norm.ppf(0.975) * curve.error
    for one, value, margin in zip(got.expected, expected, reach, strict=True):
        assert (one.low, one.value, one.high) == pytest.approx((value - margin, value, value + margin))
    assert got.curve[0].expected.value == pytest.approx(got.expected[0].value)
    assert got.curve[-1].expected.value == pytest.approx(got.expected[-1].value)


def test_a_curve_needs_points(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    with pytest.raises(RecipeError, match="a curve needs at least 4 candidates, ends included; there are 3"):
        select(job(work, Select(by="target/accuracy", smoothed=True), [right(k) for k in (50, 60, 70)]), work)


BUDGET = {"rule": "within", "by": "target/accuracy", "divergence": "target/kl_to_start"}


@pytest.mark.parametrize(
    ("at_most", "name", "words"),
    [
        (1.0, "alpha=1", "(4 of 4). Its target/kl_to_start is 0.9 [0.81, 1.08]."),
        # 0.1 is within 0.105; its upper bound, 0.11, is not.
        (0.105, "alpha=0", "(1 of 4). It is the start. alpha=0.333333 is the first beyond: at most 0.11 with 95%"),
        (0.5, "alpha=0.666667", "(3 of 4). Its target/kl_to_start is 0.4 [0.36, 0.48]. alpha=1 is the first beyond"),
    ],
)
def test_within_takes_the_best_that_surely_moved_no_further(
    tmp_path: Path, at_most: float, name: str, words: str
) -> None:
    work, rule = Workspace(tmp_path), Select.model_validate({**BUDGET, "at_most": at_most})
    target = [right(k) for k in (50, 60, 70, 80)]
    distances = moved(0.0, 0.1, 0.4, 0.9)
    got = select(job(work, rule, target, distances), work)
    assert got.chosen.name == name
    assert words in got.why
    assert f"whose target/kl_to_start is, with 95% confidence, at most {at_most:g} nats" in got.rule
    assert got.kl == distances
    assert select(job(work, rule, target, distances), work) == got  # read back


def test_a_rule_without_a_budget_has_the_fingerprint_that_it_had() -> None:
    """Work that was finished before there were budgets is found again."""
    from ftlib.fingerprint import identify

    assert set(identify(Select(by="a/b"))) == {"rule", "by", "plus", "subject_to", "max_drop", "alpha", "gates"}  # type: ignore[arg-type]
    plain = SelectJob(candidates=Candidates(members=()), reports=(), evaluations={}, select=Select(by="a/b"))
    assert (
        plain.fingerprint
        == plain.model_copy(update={"kl": None}).fingerprint
        != (plain.model_copy(update={"kl": moved(0.1)}).fingerprint)
    )


def sure(rows: Sequence[float]) -> LabelOutcomes:
    """Return two-label answers, each with this probability of the first label."""
    p = np.array(rows)
    return replace(answers(np.ones(len(p), bool)), probabilities=np.stack([p, 1.0 - p], axis=1))


def test_dawin_s_mean_alpha_is_nearer_to_the_end_that_is_surer(tmp_path: Path) -> None:
    work, members = Workspace(tmp_path), line(5)
    start, end = [0.5, 0.9, 0.6, 0.999], [0.99, 0.95, 0.8, 0.5]
    entropies = [[scipy.stats.entropy([p, 1.0 - p]) for p in rows] for rows in (start, end)]
    rows = [np.exp(-h1) / (np.exp(-h0) + np.exp(-h1)) for h0, h1 in zip(*entropies, strict=True)]
    whole = job(work, Select(rule="dawin", by="target/accuracy"), [right(2, 4)] * 5)
    for i, given in ((0, start), (4, end)):
        (work.root / f"outcomes/target-{i}.parquet").write_bytes(sure(given).to_parquet())
    got = select(whole, work)
    mean = float(np.mean(rows))
    nearest = min((member.alpha or 0.0 for member in members), key=lambda alpha: abs(alpha - mean))
    assert got.chosen.alpha == nearest
    assert f"is nearest to {mean:.3f} [" in got.why
    assert "over 4 rows: 0 where only theta0 is sure" in got.why


def test_the_distance_of_classifiers_is_read_from_their_tables(tmp_path: Path) -> None:
    work, members = Workspace(tmp_path), line(3)
    cells = report(work, "target", members, [right(2, 4)] * 3)
    answered = [[0.5, 0.9, 0.6, 0.7], [0.6, 0.8, 0.6, 0.7], [0.9, 0.5, 0.2, 0.7]]
    for i, rows in enumerate(answered):
        (work.root / f"outcomes/target-{i}.parquet").write_bytes(sure(rows).to_parquet())
    data = tiny_prepared(tmp_path / "rows", {"validation": tiny_rows(4)})
    made = diverge(
        DivergeJob(
            name="target", evaluation=EVALUATIONS["target"], candidates=Candidates(members=members),
            reports=(cells,), data=data, seed=0, compute=Compute(),
        ),
        work,
    )  # fmt: skip
    by_hand = [
        np.mean([scipy.stats.entropy([p, 1 - p], [q, 1 - q]) for p, q in zip(answered[0], rows, strict=True)])
        for rows in answered
    ]
    assert [one.kl.value for one in made.moved] == pytest.approx(by_hand, rel=1e-5)
    assert by_hand[0] == 0.0
    for one in made.moved:
        low, _, high = one.kl.numbers() or (1.0, 0.0, 0.0)
        assert low <= one.at_most <= high  # one-sided at 95 %, between the two-sided ends


def test_the_distance_of_language_models_is_a_pass_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, start = Workspace(tmp_path / "work"), tiny_checkpoint(tmp_path / "start", labels=())
    end = tiny_checkpoint(tmp_path / "end", labels=(), start=start, seed=1)
    rows = PromptCompletion(prompt="prompt", completion="completion", max_tokens=64)
    data = tiny_prepared_as(tmp_path / "d", rows, {"validation": tiny_prompts(8)}, Processor.of(tiny_lm_tokenizer()))
    data = data.model_copy(update={"tokenizer": end.tokenizer})
    fit, compute = Evaluation(dataset="rows", metrics=(Perplexity(),), resamples=100), Compute(threads=1)
    members = WiseFT(alphas=(0.5,)).points(Ends(start, end))
    asked = EvaluateJob(
        name="fit", evaluation=fit, candidates=members, data=data, split="validation", seed=0, compute=compute
    )
    whole = Candidates(members=members)
    job = DivergeJob(
        name="fit", evaluation=fit, candidates=whole, reports=(evaluate(asked, work),), data=data, seed=0,
        compute=compute,
    )  # fmt: skip
    made = diverge(job, work)
    split = open_split(data.path / "validation.arrow", ())
    sums = token_divergence(load(start, "completions"), load(end, "completions"), split)
    assert made.moved[0].kl.numbers() == (0.0, 0.0, 0.0)
    assert made.moved[2].kl.value == pytest.approx(sums.sum() / split.supervised.sum(), rel=1e-6)
    assert 0.0 < (made.moved[1].kl.value or 0.0) < (made.moved[2].kl.value or 0.0)
    monkeypatch.setattr(divergence, "token_divergence", None)  # nobody is asked again
    again = diverge(job.model_copy(update={"seed": 1}), work)
    assert [one.kl.value for one in again.moved] == [one.kl.value for one in made.moved]
