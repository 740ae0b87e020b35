"""The evidence: rows that can be run, verdicts that are earned, a page that is what the results say."""

from __future__ import annotations

import json
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from scipy.stats import ttest_rel

from benchmarks.evidence import raters
from benchmarks.evidence.curve import coefficients, draw, explained, picture, r2
from benchmarks.evidence.measure import find
from benchmarks.evidence.needs import make
from benchmarks.evidence.page import PAGE, page
from benchmarks.evidence.points import Measured, Point
from benchmarks.evidence.row import Arm, Comparison, Fit, Row, read_rows
from benchmarks.evidence.trial import MachineFailed, Trial, measured, read_trials, run_trial, sources_of
from benchmarks.evidence.verdict import verdict, verdicts
from ftlib.errors import Interrupted, TransientError
from ftlib.recipe.file import load_recipe
from ftlib.training.principles import read_principles

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/quickstart.yaml"


def a_row(**more: object) -> Row:
    arms = {"ours": Arm(recipe=RECIPE), "theirs": Arm(recipe=RECIPE, candidate="base")}
    comparison = Comparison(metric="home/accuracy", better="ours", than="theirs")
    told = {"group": "Groups", "claim": "Ours is better", "published": "nowhere", "data": "10 rows"}
    return Row.model_validate({"name": "a", **told, "arms": arms, "comparisons": (comparison,), **more})


def trials(ours: list[float], theirs: list[float]) -> list[Trial]:
    row = a_row()
    return [
        Trial(
            row="a",
            digest=row.digest(),
            seed=seed,
            arms={"ours": {"home/accuracy": mine}, "theirs": {"home/accuracy": other}},
            seconds=1.0,
            commit="0" * 40,
            machine={},
        )
        for seed, (mine, other) in enumerate(zip(ours, theirs, strict=True))
    ]


@pytest.mark.parametrize("row", read_rows().values(), ids=lambda row: row.name)
def test_a_row_asks_what_its_recipes_measure(row: Row) -> None:
    for name, arm in row.arms.items():
        if arm.recipe is None:
            continue
        for larger in ((*row.larger, *arm.larger), ()):
            recipe = load_recipe(ROOT / arm.recipe, [*arm.overrides, *larger])
        for metric in row.metrics_of(name):
            if metric.startswith("principles/kept_"):
                asked = [phase.principles for phase in recipe.phases if phase.principles]
                assert int(metric.removeprefix("principles/kept_")) in range(1, 1 + len(read_principles(asked[0].file)))
            elif metric.endswith("/kl_to_start"):
                assert recipe.select.divergence == metric
            elif not metric.startswith("checkpoint/"):
                recipe.metric(metric.partition("[")[0])
        phases = {"chosen", "base", *(phase.name for phase in recipe.phases)}
        assert arm.candidate in phases or arm.candidate.startswith("alpha=")
    assert row.measure is None or callable(find(row.measure))


def test_the_page_is_what_the_results_say() -> None:
    rows = read_rows()
    assert PAGE.read_text("utf-8") == page(rows, {name: read_trials(row) for name, row in rows.items()})


def test_an_interval_is_that_of_the_paired_t_test() -> None:
    ours, theirs = [0.8, 0.82, 0.79, 0.85], [0.7, 0.75, 0.71, 0.78]
    one = verdict(a_row().comparisons[0], trials(ours, theirs))
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert one.half_width is not None
    np.testing.assert_allclose(one.difference - one.half_width, interval.low)
    np.testing.assert_allclose(one.difference + one.half_width, interval.high)
    assert one.word == "shows"


@pytest.mark.parametrize(
    ("ours", "theirs", "told", "word"),
    [
        ([0.5, 0.5], [0.1, 0.1], {}, "too few seeds"),
        ([0.1, 0.12, 0.11], [0.5, 0.52, 0.51], {}, "contrary"),
        ([0.1, 0.12, 0.11], [0.5, 0.52, 0.51], {"lower": True}, "shows"),
        ([0.50, 0.51, 0.49], [0.5, 0.5, 0.5], {"least": 0.1}, "not seen"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], {"least": 0.1}, "no difference"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], {"least": -0.1}, "shows"),
        ([0.9, 0.1, 0.5], [0.5, 0.5, 0.5], {"least": 0.1}, "too noisy"),
        ([0.9, 0.1, 0.5], [0.5, 0.5, 0.5], {}, "too noisy"),
        ([0.7, 0.71, 0.72], [0.6, 0.6, 0.6], {"least": 0.3}, "not seen"),
    ],
)
def test_a_verdict_is_no_more_than_the_seeds_say(
    ours: list[float], theirs: list[float], told: dict[str, object], word: str
) -> None:
    comparison = Comparison.model_validate({"metric": "home/accuracy", "better": "ours", "than": "theirs", **told})
    assert verdict(comparison, trials(ours, theirs)).word == word


@pytest.mark.parametrize(
    ("again", "effect", "word"),
    [
        ([0.5, 0.52, 0.49], 0.04, "does not show"),
        ([0.5, 0.52, 0.49], 0.02, "not seen"),  # the interval could hide such an effect
        ([0.7, 0.71, 0.72], 0.04, "not seen"),
        ([0.9, 0.1, 0.5], 0.04, "not seen"),
        ([0.5, 0.52, 0.49], None, "not seen"),
    ],
)
def test_that_a_claim_does_not_show_takes_precision_and_another_implementation(
    again: list[float], effect: float | None, word: str
) -> None:
    comparison = Comparison(
        metric="home/accuracy", better="ours", than="theirs", least=0.1, effect=effect, again="by_hand"
    )
    told = [
        trial.model_copy(update={"arms": {**trial.arms, "by_hand": {"home/accuracy": other}}})
        for trial, other in zip(trials([0.5, 0.51, 0.49], [0.5, 0.5, 0.5]), again, strict=True)
    ]
    found = verdict(comparison, told)
    assert (found.word, round(found.better, 9)) == (word, 0.5)


def test_all_comparisons_of_a_claim_are_counted() -> None:
    row = a_row(
        comparisons=[one.model_copy(update={"least": least}) for one in a_row().comparisons for least in (0, 1)]
    )
    told = page({"a": row}, {"a": trials([0.8, 0.81, 0.82], [0.7, 0.7, 0.7])})
    assert "| +0.11 ± 0.0248 | 3 | shows | 1 of 2 |" in told
    assert "| +0.11 ± 0.0248 | 3 | not seen |" in told


def test_a_result_of_another_recipe_is_none_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = read_rows()["grpo"]
    now = sources_of(row)
    with monkeypatch.context() as changed:
        read = load_recipe(ROOT / "recipes/grpo.yaml", ["seed=99"])
        changed.setattr("benchmarks.evidence.trial.load_recipe", lambda _: read)
        assert sources_of(row) != now
    kept = trials([0.8], [0.7])[0].model_copy(update={"row": "grpo", "digest": row.digest()})
    kept.file(tmp_path).parent.mkdir()
    for sources, results in ((None, 1), (now, 1), ("other", 0)):
        told = kept.model_copy(update={"sources": sources})
        told.file(tmp_path).write_text(told.model_dump_json(), encoding="utf-8")
        assert len(read_trials(row, tmp_path)) == results


def test_a_failed_run_is_kept_and_counted() -> None:
    row, good = a_row(), trials([0.8, 0.81, 0.82], [0.7, 0.7, 0.7])
    failed = good[0].model_copy(update={"seed": 3, "arms": {}, "failed": "a worker died"})
    assert [one.seeds for one in verdicts(row, [*good, failed])] == [3]
    assert "1 run failed: a worker died" in page({"a": row}, {"a": [*good, failed]})
    assert verdicts(row, [failed]) == []


def test_larger_results_stand_below_the_others_and_are_counted_by_themselves() -> None:
    row, few = a_row(), trials([0.8, 0.81, 0.82], [0.7, 0.7, 0.7])
    more = [trials([0.5], [0.75])[0].model_copy(update={"larger": True})]
    plain, larger = page({"a": row}, {"a": [*more, *few]}).split("With `--larger`:")
    assert plain.count("| +0.11 ± 0.0248 | 3 | shows |") == 2  # among all claims, and below its own
    assert "| -0.25 | 1 | too few seeds |" in larger
    alone = page({"a": row}, {"a": more}).split("With `--larger`:")[0]
    assert "Not run yet." in alone
    assert "ours against theirs, larger | -0.25 | 1 | too few seeds | 0 of 1 |" in alone


@pytest.mark.parametrize("name", ["dpo", "dpo_line"])
def test_larger_is_the_recipe_as_it_stands(name: str) -> None:
    row = read_rows()[name]
    for arm in row.arms.values():
        if arm.recipe is not None:
            assert load_recipe(ROOT / arm.recipe, [*arm.overrides, *row.larger]) == load_recipe(ROOT / arm.recipe)


def test_a_result_of_other_arms_is_none_of_the_row(tmp_path: Path) -> None:
    for trial in trials([0.8], [0.7]):
        trial.file(tmp_path).parent.mkdir()
        trial.file(tmp_path).write_text(trial.model_dump_json(), encoding="utf-8")
    assert len(read_trials(a_row(), tmp_path)) == 1
    assert len(read_trials(a_row(claim="Other words"), tmp_path)) == 1
    other = {"ours": Arm(recipe="recipes/lora.yaml"), "theirs": Arm(recipe=RECIPE, candidate="base")}
    assert read_trials(a_row(arms=other), tmp_path) == []


def test_numbers_are_those_of_the_arm_s_candidate() -> None:
    far = {"gap=far": {"rows": 3, "metrics": {"accuracy": {"value": 0.9}}}}
    cell = {"evaluation": "home", "split": "test", "metrics": {"accuracy": {"value": 0.5}}, "slices": far}
    report = {
        "measured": [
            {**cell, "candidate": "base"},
            {**cell, "candidate": "tune", "metrics": {"accuracy": {"value": 0.7}}},
        ]
    }
    record = {"evidence": {"selection": {"chosen": {"name": "tune"}}, "final": [report], "sweep": []}}
    assert measured(record, Arm(recipe="a.yaml"), {"home/accuracy"}) == {"home/accuracy": 0.7}
    assert measured(record, Arm(recipe="a.yaml", candidate="base"), {"home/accuracy"}) == {"home/accuracy": 0.5}
    assert measured(record, Arm(recipe="a.yaml"), {"home/accuracy[gap=far]"}) == {"home/accuracy[gap=far]": 0.9}
    with pytest.raises(KeyError, match="'tune' has no home/f1 on the test split"):
        measured(record, Arm(recipe="a.yaml"), {"home/f1"})


def test_how_far_a_candidate_moved_is_what_the_selection_says() -> None:
    moved = [{"candidate": name, "kl": {"value": kl}} for name, kl in (("alpha=0.5", 0.25), ("alpha=1", 1.0))]
    ends = [{"phase": one, "facts": {}, "trained_parameters": 0} for one in ("base", "prefer")]
    selection = {"chosen": {"name": "alpha=0.5"}, "kl": {"evaluation": "pairs", "moved": moved}}
    record = {"evidence": {"final": [], "sweep": [], "selection": selection, "checkpoints": ends}}
    for candidate, kl in (("chosen", 0.25), ("prefer", 1.0), ("alpha=1", 1.0)):
        arm = Arm(recipe="a.yaml", candidate=candidate)
        assert measured(record, arm, {"pairs/kl_to_start"}) == {"pairs/kl_to_start": kl}
    with pytest.raises(KeyError, match="'base' has no pairs/kl_to_start"):
        measured(record, Arm(recipe="a.yaml", candidate="base"), {"pairs/kl_to_start"})


def test_principles_are_kept_by_the_answers_before_a_phase_and_after_it() -> None:
    def counts(*kept: int) -> list[dict[str, int]]:
        return [{"answers": 8, "kept": one} for one in kept]

    held = [{"before": before, "after": after} for before, after in zip(counts(2, 8), counts(6, 4), strict=True)]
    evidence = {"final": [], "sweep": [], "upheld": [{"phase": "revise", "principles": held}]}
    start, end = (Arm(recipe="a.yaml", candidate=name) for name in ("base", "revise"))
    asked = {"principles/kept_1", "principles/kept_2"}
    assert [*measured({"evidence": evidence}, start, asked).values()] == [0.25, 1.0]
    assert [*measured({"evidence": evidence}, end, asked).values()] == [0.75, 0.5]
    with pytest.raises(KeyError, match="'other' has no principles/kept_1"):
        measured({"evidence": evidence}, Arm(recipe="a.yaml", candidate="other"), {"principles/kept_1"})


def test_what_is_stated_of_an_arm_is_read_and_told_and_compared_with_nothing() -> None:
    row = a_row(stated={"ours": ["checkpoint/last_kl"]})
    assert (row.metrics_of("ours"), row.metrics_of("theirs")) == (
        {"home/accuracy", "checkpoint/last_kl"},
        {"home/accuracy"},
    )
    assert row.digest() != a_row().digest()
    larger = a_row(larger=["split.test=0.5"])
    assert (larger.digest(), larger.digest(larger=True) != row.digest(larger=True)) == (a_row().digest(), True)
    told = [
        trial.model_copy(update={"arms": {**trial.arms, "ours": {**trial.arms["ours"], "checkpoint/last_kl": kl}}})
        for trial, kl in zip(trials([0.8, 0.8, 0.8], [0.7, 0.7, 0.7]), (1.0, 2.5, 4.0), strict=True)
    ]
    assert "| ours | checkpoint/last\\_kl | 2.5 | 1 | 4 |" in page({"a": row}, {"a": told})
    with pytest.raises(ValidationError, match="there is no arm 'nobody'"):
        a_row(stated={"nobody": ["home/accuracy"]})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"comparisons": [{"metric": "home/accuracy", "better": "oursa", "than": "theirs"}]},
            "there is no arm 'oursa'",
        ),
        ({"arms": {"ours": {}, "theirs": {"recipe": "a.yaml"}}}, "got neither"),
        ({"arms": {"ours": {"recipe": "a.yaml", "mean_of": ["theirs"]}, "theirs": {"recipe": "a.yaml"}}}, "got both"),
    ],
)
def test_a_row_that_cannot_be_run_is_refused(change: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        Row.model_validate({**yaml.safe_load(a_row().model_dump_json()), **change})


FIT = Fit(x="distance", y="loss", of=("tuned",), least=0.9)


def on_a_curve(noise: float, seed: int = 0) -> list[Point]:
    """Return points of 1 + 2 x + 3 x^2, those of another series beside it by a constant."""
    draws = np.random.default_rng(seed)
    y = {x: 1 + 2 * x + 3 * x * x + noise * draws.normal() for x in np.linspace(0, 1, 12)}
    return [
        *(Point(series="tuned", x=x, y=value) for x, value in y.items()),
        *(Point(series="beside", x=x, y=value + 5) for x, value in y.items()),
    ]


def test_a_curve_is_found_and_what_lies_beside_it_is_told() -> None:
    np.testing.assert_allclose(coefficients(FIT, on_a_curve(0.0)), [3, 2, 1], atol=1e-9)
    several = [
        trial.model_copy(update={"points": tuple(on_a_curve(0.05, seed))})
        for seed, trial in enumerate(trials([0.8, 0.8, 0.8], [0.7, 0.7, 0.7]))
    ]
    fitted, beside, together = explained(FIT, several)
    assert (fitted.word, fitted.seeds, fitted.points) == ("shows", 3, 36)
    assert beside.r2 < 0
    assert beside.word == "contrary"
    assert beside.r2 < together.r2 < fitted.r2
    assert (together.series, together.points) == ("tuned, beside", 72)
    other = FIT.model_copy(update={"instead": ("noise",)})
    told = [
        trial.model_copy(
            update={"points": tuple(p.model_copy(update={"beside": {"noise": -p.x}}) for p in trial.points)}
        )
        for trial in several
    ]
    np.testing.assert_allclose(explained(other, told)[-1].r2, fitted.r2)  # a mirrored x explains as much


def test_r2_is_that_of_a_straight_line_s_correlation() -> None:
    points = [one for one in on_a_curve(0.5) if one.series == "tuned"]
    line = np.polyfit([one.x for one in points], [one.y for one in points], 1)
    correlation = np.corrcoef([one.x for one in points], [one.y for one in points])[0, 1]
    np.testing.assert_allclose(r2(line, points), correlation**2)


def test_the_drawing_is_a_function_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.evidence.curve.IMAGES", tmp_path)
    row = a_row(fit=FIT)
    one = trials([0.8], [0.7])[0].model_copy(update={"points": tuple(on_a_curve(0.05))})
    draw(row, [one])
    first = picture(row).read_bytes()
    draw(row, [one])
    assert picture(row).read_bytes() == first
    assert f"images/{picture(row).name}" in page({"a": row}, {"a": [one]})


def script(seed: int, work: Path, settings: dict[str, float]) -> Measured:
    """Measure as a row's script does; it runs in another process."""
    if "machine" in settings:
        raise MachineFailed("no server for this one")
    if "unknown" in settings:
        raise ValueError("a setting that is not known")
    arms = {"ours": {"home/accuracy": settings["ours"]}, "theirs": {"home/accuracy": 0.1 * seed}}
    return Measured(arms=arms, points=(Point(series="tuned", x=1, y=2, what=work.name),))


def test_a_script_measures_arms_and_its_failure_is_a_result(tmp_path: Path) -> None:
    told = {"arms": {"ours": {}, "theirs": {}}, "measure": f"{__name__}:script"}
    trial = run_trial(a_row(**told, settings={"ours": 0.5}), 3, tmp_path)
    assert trial.failed is None
    assert trial.arms["ours"] == {"home/accuracy": 0.5}
    np.testing.assert_allclose(trial.arms["theirs"]["home/accuracy"], 0.3)
    assert trial.points == (Point(series="tuned", x=1, y=2, what=tmp_path.name),)
    assert a_row(**told, settings={"ours": 0.5}).digest() != a_row(**told, settings={"ours": 0.6}).digest()
    failed = run_trial(a_row(**told, settings={"unknown": 1}), 3, tmp_path)
    assert failed.failed == "ValueError: a setting that is not known"
    assert failed.arms == {}


def test_threads_change_where_a_run_trains_and_no_result_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def runs_nothing(recipe: str, overrides: tuple[str, ...], *_: object, **__: object) -> None:
        asked.append(overrides)
        raise RuntimeError("nothing runs")

    monkeypatch.setattr("benchmarks.evidence.trial.ran", runs_nothing)
    plain, threaded = run_trial(a_row(), 0, tmp_path), run_trial(a_row(), 0, tmp_path, threads=1)
    assert asked == [(), ("compute.workers=0", "compute.threads=1")]
    assert plain.digest == threaded.digest
    assert threaded.failed == "nothing runs"


@pytest.mark.parametrize(
    ("code", "kept"), [(5, True), (2, True), (TransientError.exit_code, False), (Interrupted.exit_code, False)]
)
def test_what_fails_by_the_machine_is_no_result(
    code: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.dumps({"error": {"kind": "an error", "message": "the server did not start", "exit_code": code}})
    ends = subprocess.CompletedProcess([], code, stdout=told, stderr="")
    processes = SimpleNamespace(run=lambda *_, **__: ends, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr("benchmarks.evidence.trial.subprocess", processes)
    if kept:
        assert run_trial(a_row(), 0, tmp_path).failed == "the server did not start"
        return
    with pytest.raises(MachineFailed, match="the server did not start"):
        run_trial(a_row(), 0, tmp_path)
    ends.returncode, ends.stdout = -9, ""
    with pytest.raises(MachineFailed, match="ended with -9 and said nothing"):
        run_trial(a_row(), 0, tmp_path)


def test_what_fails_by_the_machine_in_a_script_is_none_either(tmp_path: Path) -> None:
    arms = {"ours": {}, "theirs": {}}
    with pytest.raises(MachineFailed, match="no server for this one"):
        run_trial(a_row(arms=arms, measure=f"{__name__}:script", settings={"machine": "fails"}), 3, tmp_path)


def test_what_a_row_needs_is_made_once_and_a_failure_is_told(tmp_path: Path) -> None:
    made = tmp_path / "made"
    writes = f"python -c \"open('{made}', 'a').write('x')\""
    fails = "python -c \"raise SystemExit('no such package')\""
    assert [make([writes]), make([writes])] == [None, None]
    assert made.read_text() == "x"
    assert make([writes, fails, writes]) == f"{fails}: ended with 1: no such package"


@pytest.mark.parametrize("row", read_rows().values(), ids=lambda row: row.name)
def test_a_row_needs_what_python_or_pip_make(row: Row) -> None:
    for program, *words in map(shlex.split, row.needs):
        assert program in ("python", "pip")
        if words[:3] == ["-m", "flows.command_line.main", "run"]:
            changes = [word for flag, word in pairwise(words) if flag == "--set"]
            assert load_recipe(ROOT / words[3], changes).publish.name in " ".join(row.needs)


def test_raters_agree_by_gap(tmp_path: Path) -> None:
    rows = [{"gap": "near", "agreement": 0.5}, {"gap": "near", "agreement": 0.7}, {"gap": "far", "agreement": 1.0}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (told,) = raters.measure(0, tmp_path, {"files": {"films": str(tmp_path / "rows.jsonl")}}).arms.values()
    means = {"": 2.2 / 3, "[gap=near]": 0.6, "[gap=far]": 1.0}
    assert told == pytest.approx({f"films/pair_accuracy{where}": value for where, value in means.items()})
