"""What a window of answers is counted to, compared with, and concluded from."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import f1_score

from ftlib.answer_log.profile import AnswerProfile, confidence_bin
from ftlib.answer_log.reader import Answer, Reading
from ftlib.data.profile import length_bin, profile
from ftlib.evaluation.metrics.accuracy import Accuracy
from ftlib.evaluation.metrics.macro_f1 import MacroF1
from ftlib.retraining.drift import DriftLimits
from ftlib.retraining.live_counts import Counted, LiveCounts
from ftlib.retraining.live_drift import Drifts, Reference, drifts_of
from ftlib.retraining.live_policy import OfLabels, OfThumbs
from ftlib.retraining.live_quality import Standard, quality, standard
from ftlib.retraining.live_verdict import LiveVerdict, Remembered, Watched, hear, live_reasons, remember, remembered
from ftlib.workspace import Workspace

LABELS = ("billing", "bug", "sales")
LIMITS = DriftLimits(rows=1000)


def asked(count: int, seed: int, *, longer: float = 1.0, labels: str = "001122", sure: float = 8.0) -> list[Answer]:
    """Answers of one and the same traffic, but for what is said to differ."""
    rng = random.Random(seed)
    return [
        Answer(
            at=float(i),
            length=int(longer * rng.lognormvariate(5, 0.5)),
            measures={"tokens": 20, "unknown": int(rng.random() < 0.2)},
            label=LABELS[int(rng.choice(labels))],
            probability=rng.betavariate(sure, 2),
            right_label=None,
            thumb=None,
        )
        for i in range(count)
    ]


def counted(answers: Iterable[Answer], **given: Any) -> Counted:
    one = Counted(**{"labels": LABELS, "last": 0.0, "begun": 0.0, "seconds": 1e9, **given})
    for answer in answers:
        one.add(answer)
    return one


def reference(answers: list[Answer]) -> Reference:
    """A version that was made with just these."""
    live = counted(answers).counts()
    rows = profile(("x" * (answer.length or 0), answer.label, ()) for answer in answers)
    return Reference(asked=rows, answered=live.answered)


MADE_WITH = asked(4000, 1)


def test_the_very_rows_of_the_training_have_not_moved_at_all() -> None:
    found = drifts_of(reference(MADE_WITH), counted(MADE_WITH).counts(), LIMITS, "m@1")
    assert [drift.feature for drift in found.drifts] == ["length", "answer", "confidence", "unknown tokens"]
    assert all(drift.psi == pytest.approx(0.0, abs=1e-12) and drift.distance < 1e-12 for drift in found.drifts)
    assert not found.large
    assert not found.not_compared


def test_other_traffic_of_the_same_kind_has_not_moved_and_no_order_matters() -> None:
    others = asked(4000, 2)
    found = drifts_of(reference(MADE_WITH), counted(others).counts(), LIMITS, "m@1")
    assert not found.large
    random.Random(0).shuffle(others)
    assert drifts_of(reference(MADE_WITH), counted(others).counts(), LIMITS, "m@1") == found


@pytest.mark.parametrize(
    ("given", "features"),
    [
        ({"longer": 2.0}, {"length"}),
        ({"labels": "000001"}, {"answer"}),
        ({"sure": 2.0}, {"confidence"}),
    ],
)
def test_what_moves_is_named_and_nothing_else(given: dict[str, Any], features: set[str]) -> None:
    found = drifts_of(reference(MADE_WITH), counted(asked(2000, 3, **given)).counts(), LIMITS, "m@1")
    assert {drift.feature for drift in found.large} == features


def test_distances_are_kolmogorov_and_smirnov_s_of_the_binned_values() -> None:
    now = asked(1500, 5, longer=1.2, sure=5.0)
    found = {d.feature: d for d in drifts_of(reference(MADE_WITH), counted(now).counts(), LIMITS, "m@1").drifts}
    for feature, value in (
        ("length", lambda answer: length_bin(answer.length)),
        ("confidence", lambda answer: confidence_bin(answer.probability)),
    ):
        exact = ks_2samp([*map(value, MADE_WITH)], [*map(value, now)], method="asymp").statistic
        assert found[feature].distance == pytest.approx(exact, abs=1e-12)


def test_a_rare_label_that_is_not_answered_in_a_window_is_no_drift() -> None:
    before = Reference(answered=AnswerProfile(rows=2000, labels={"a": 1998, "b": 2}))
    now = LiveCounts(asked=profile(()), answered=AnswerProfile(rows=1500, labels={"a": 1500}))
    found = drifts_of(before, now, LIMITS, "m@1")
    assert [(drift.feature, drift.vanished, drift.large) for drift in found.drifts] == [("answer", ("b",), False)]


def test_a_version_without_a_profile_of_its_answers_is_named_and_the_rest_is_compared() -> None:
    before = Reference(asked=reference(MADE_WITH).asked)
    found = drifts_of(before, counted(MADE_WITH).counts(), LIMITS, "m@7")
    assert [drift.feature for drift in found.drifts] == ["length"]
    assert [text.partition(":")[0] for text in found.not_compared] == ["answer", "confidence", "unknown tokens"]
    assert all("m@7 was published without a profile of its answers" in text for text in found.not_compared)
    nothing = drifts_of(Reference(), counted(MADE_WITH).counts(), LIMITS, "m@7")
    assert not nothing.drifts
    assert "length: the lineage of m@7 has no profile of its rows" in nothing.not_compared


def test_too_few_on_either_side_are_said_and_not_compared() -> None:
    few = drifts_of(reference(MADE_WITH), counted(asked(999, 1, longer=9.0)).counts(), LIMITS, "m@1")
    assert not few.drifts
    assert "length: 999 values in the window, needed are 1,000" in few.not_compared
    small = drifts_of(reference(asked(500, 1)), counted(asked(2000, 1, longer=9.0)).counts(), LIMITS, "m@1")
    assert "answer: 500 values to compare with, needed are 1,000" in small.not_compared


def judged(count: int, right: float, seed: int = 0, at: float = 0.0) -> list[Answer]:
    rng = random.Random(seed)
    found: list[Answer] = []
    for answer in asked(count, seed):
        truth = answer.label if rng.random() < right else LABELS[(LABELS.index(answer.label or "") + 1) % 3]
        found.append(answer._replace(at=at, right_label=truth, thumb=truth == answer.label))
    return found


PUBLISHED = standard(OfLabels(), "fit", {"fit/accuracy": 0.9}, AnswerProfile(rows=2000, right=1800))


def test_windows_begin_when_the_version_was_put_in_place_and_each_has_its_own_quality() -> None:
    answers = [*judged(300, 0.9, 1, at=-5.0), *judged(400, 0.9, 2, at=15.0), *judged(500, 0.5, 3, at=25.0)]
    windows = counted(answers, begun=0.0, seconds=10.0).windows
    found = quality(windows, range(1, 4), OfLabels(), PUBLISHED, 0.0, 10.0, [Accuracy(), MacroF1()])
    assert [(one.number, one.answers, one.judged) for one in found] == [(1, 0, 0), (2, 400, 400), (3, 500, 500)]
    assert [(one.too_few, one.worse) for one in found] == [(True, False), (False, False), (False, True)]
    truth = [answer.right_label for answer in answers[700:]]
    said = [answer.label for answer in answers[700:]]
    assert found[2].share == pytest.approx(sum(a == b for a, b in zip(truth, said, strict=True)) / 500)
    macro = found[2].metrics["macro_f1"]
    assert macro.value == pytest.approx(f1_score(truth, said, average="macro"))
    assert macro.low is not None
    assert macro.high is not None
    assert macro.low < f1_score(truth, said, average="macro") < macro.high
    assert found[1].since == "1970-01-01T00:00:10Z"


def test_too_few_labels_say_nothing_whatever_they_are() -> None:
    windows = counted(judged(99, 0.0)).windows
    (found,) = quality(windows, [1], OfLabels(), PUBLISHED, 0.0, 1e9, [])
    assert (found.too_few, found.worse) == (True, False)


def test_thumbs_are_held_against_the_share_that_is_stated() -> None:
    rule = OfThumbs(kind="thumbs", at_least=0.8)
    asked_for = standard(rule, None, {}, None)
    for share, worse in ((0.85, False), (0.5, True)):
        (found,) = quality(counted(judged(500, share)).windows, [1], rule, asked_for, 0.0, 1e9, [])
        assert found.worse == worse


def test_what_is_asked_for_follows_from_publishing() -> None:
    assert PUBLISHED.least is not None
    assert 0.9 - 0.02 - 0.03 < PUBLISHED.least < 0.9 - 0.02  # the published share's own doubt counts too
    old = standard(OfLabels(margin=0.1), "fit", {"fit/accuracy": 0.9}, None)
    assert old.least == pytest.approx(0.8)
    assert "rows that the version does not tell" in old.how
    nothing = standard(OfLabels(), None, {}, None)
    assert nothing.least is None
    (found,) = quality(counted(judged(500, 0.0)).windows, [1], OfLabels(), nothing, 0.0, 1e9, [])
    assert not found.worse


def test_labels_that_are_spelled_otherwise_are_the_same_label() -> None:
    number = asked(1, 0)[0]._replace(label="1", right_label="1.0")  # a table of numbers beside one of texts
    window = counted([number, number._replace(right_label="10")], labels=("1", "10")).windows[1]
    assert (window.right, window.labelled) == (1, 2)


def test_a_label_that_the_version_does_not_have_judges_nothing_and_is_counted() -> None:
    """Of 40 answers 30 are judged by labels of the version's own; ten that nobody could have given say nothing."""
    answers = judged(30, 1.0) + [one._replace(right_label="bogus") for one in judged(10, 1.0)]
    found = counted(answers)
    assert (found.windows[1].labelled, found.windows[1].right, found.strange_labels) == (30, 30, 10)
    of_any = counted(answers, labels=())
    assert (of_any.windows[1].labelled, of_any.windows[1].right, of_any.strange_labels) == (40, 30, 0)


def verdict(**given: Any) -> LiveVerdict:
    values: dict[str, Any] = {
        "name": "m", "alias": "champion", "version": 2, "entry": 5, "registry": "r", "log": "l", "at": "",
        "window_days": 7,
        "standard": Standard(what="accuracy", level=0.01, how="it is"), "reading": Reading(answer_files=1),
    }  # fmt: skip
    return LiveVerdict(**(values | given))


DRIFTED = drifts_of(reference(MADE_WITH), counted(asked(2000, 3, longer=2.0)).counts(), LIMITS, "m@2")


def test_the_worst_that_was_found_is_the_verdict() -> None:
    worse = quality(counted(judged(500, 0.2)).windows, [1], OfLabels(), PUBLISHED, 0.0, 1e9, [])
    good = quality(counted(judged(500, 0.95)).windows, [1], OfLabels(), PUBLISHED, 0.0, 1e9, [])
    same = drifts_of(reference(MADE_WITH), counted(MADE_WITH).counts(), LIMITS, "m@2")
    cases = [
        (DRIFTED, worse, "worse"),
        (DRIFTED, good, "drifted"),
        (same, good, "quiet"),
        (same, (), "quiet"),
        (Drifts(), good, "quiet"),
        (Drifts(), (), "too_few"),
    ]
    for found, windows, what in cases:
        concluded = verdict(drift=found, quality=windows, standard=PUBLISHED).concluded(1000)
        assert concluded.what == what
        assert concluded.reasons


def test_a_retraining_hears_a_finding_once_and_only_of_the_version_in_place(tmp_path: Path) -> None:
    work, m = Workspace(tmp_path), Watched("m", "champion", "s3://models at http://one")
    assert live_reasons(work, m, 2, 5) == {}
    remember(work, m, Remembered(verdict=verdict(drift=DRIFTED)))
    trained_for = live_reasons(work, m, 2, 5)
    (reason,) = trained_for.values()
    assert reason.startswith("live drift: length: PSI")
    assert live_reasons(work, m, 2, 6) == live_reasons(work, m, 3, 5) == {}
    hear(work, m, ())
    assert live_reasons(work, m, 2, 5)
    worse = quality(counted(judged(500, 0.6)).windows, [1], OfLabels(), PUBLISHED, 0.0, 1e9, [])
    remember(work, m, Remembered(verdict=verdict(drift=DRIFTED, quality=worse, standard=PUBLISHED)))
    hear(work, m, trained_for)
    assert live_reasons(work, m, 2, 5)  # what was found while it trained is a reason for the next one
    assert not live_reasons(work, m, 2, 5).keys() & trained_for.keys()
    hear(work, m, live_reasons(work, m, 2, 5))
    assert live_reasons(work, m, 2, 5) == {}
    (tmp_path / m.path("")).write_text("{")
    assert live_reasons(work, m, 2, 5) == {}


def test_looks_at_two_aliases_or_two_registries_do_not_know_each_other(tmp_path: Path) -> None:
    work, m = Workspace(tmp_path), Watched("m", "champion", "s3://models at http://one")
    others = [m._replace(alias="canary"), m._replace(registry="s3://models at http://two"), m._replace(name="n")]
    remember(work, m, Remembered(verdict=verdict(drift=DRIFTED), told=("drift:5:length",)))
    for other in others:
        assert remembered(work, other) is None
        assert live_reasons(work, other, 2, 5) == {}
        assert other.event_id("drift:5:length") != m.event_id("drift:5:length")
        remember(work, other, Remembered(verdict=verdict(drift=DRIFTED)))
        hear(work, other, live_reasons(work, other, 2, 5))
    assert live_reasons(work, m, 2, 5)
