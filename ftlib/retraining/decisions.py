"""The two decisions of a retraining: whether fresh rows are worth one, and whether its result replaces the champion.

Both are pure functions of what was counted and measured, and both give their reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftlib.config import Config
from ftlib.evaluation.metrics import Metric
from ftlib.evaluation.results import Difference
from ftlib.retraining.drift import Drift
from ftlib.retraining.file_ledger import Changes
from ftlib.retraining.policy import Retrain
from ftlib.wording import counted

_CLOCKS_DIFFER = 1 / 24
"""Days by which two machines' clocks may differ without a word."""


class Verdict(Config):
    """Yes or no, with the reasons, each one sentence."""

    go: bool
    reasons: tuple[str, ...]
    considered: bool = False
    """The files need no second look: none of their rows is news."""

    def __str__(self) -> str:
        return "; ".join(self.reasons)


class Champion(Config):
    """What is known of the version in place without loading it."""

    name: str
    version: int
    sequence: int
    """The alias entry it was found by; a promotion decided against it says so."""
    age_days: float
    """Since the alias was moved to it, by this machine's clock; negative if one of two clocks was wrong."""


class News(Config):
    """What one dataset shows against what was considered before."""

    changes: Changes
    fresh_rows: int = 0
    """Rows the champion has never seen; where it cannot tell, all rows of files that are new or have other bytes."""
    gone_rows: int | None = None
    """Rows the champion was trained on that are in no file any more; None where it cannot tell."""
    drifts: tuple[Drift, ...] = ()
    """Fresh rows against the rows the champion was trained on."""


def nothing_to_read(changes: Mapping[str, Changes], champion: Champion | None) -> Verdict | None:
    """Say no before a row is read, if a champion is in place and every listing is as it was; else None."""
    if champion is None or not all(change.nothing for change in changes.values()):
        return None
    waiting = sum(len(change.waiting) for change in changes.values())
    more = f"; {counted(waiting, 'file')} perhaps still being written, for the next run" if waiting else ""
    return Verdict(go=False, reasons=(f"no file is new or gone; version {champion.version} stays{more}",))


def worth_training(
    news: Mapping[str, News],
    champion: Champion | None,
    policy: Retrain,
    forgotten: int = 0,
    live: Sequence[str] = (),
) -> Verdict:
    """Say whether the news justify a training. Removed rows alone do: they must not live on in the champion.

    `forgotten` rows of the champion's are to be forgotten: they do beside any number of fresh ones, and so does what
    `live` says of its answers. Without anything new that would only make the same version again.
    """
    if champion is None:
        return Verdict(go=True, reasons=("there is no champion yet",))
    fresh = sum(of.fresh_rows for of in news.values())
    gone = _gone(news, fresh)
    if forgotten:
        gone.append(f"{counted(forgotten, 'row')} to be forgotten that the champion was trained on")
    if not (fresh or gone) and all(of.gone_rows is not None for of in news.values()):
        same = f"no row is new or gone ({_files(news)}); version {champion.version} stays"
        return Verdict(go=False, reasons=(same,), considered=True)
    seen = f"{counted(fresh, 'fresh row')} ({_files(news)})"
    reasons = [f"{seen}, {policy.min_fresh_rows:,} are enough"] if fresh >= policy.min_fresh_rows else []
    reasons += gone
    if policy.max_age_days is not None:
        reasons += _too_old(champion.age_days, policy.max_age_days)
    reasons += [f"drift of {name}: {drift}" for name, of in news.items() for drift in of.drifts if drift.large]
    reasons += live
    if reasons:
        return Verdict(go=True, reasons=tuple(reasons))
    return Verdict(go=False, reasons=(f"{seen}, needed are {policy.min_fresh_rows:,}; they wait for more",))


def _gone(news: Mapping[str, News], fresh: int) -> list[str]:
    """Say what is gone. Beside fresh rows only files count: a row that was edited is gone, too, in its old form."""
    files, rows = sum(len(of.changes.vanished) for of in news.values()), sum(of.gone_rows or 0 for of in news.values())
    if files and (rows or any(of.gone_rows is None for of in news.values())):
        return [f"{counted(files, 'file')} gone, with all rows"]
    return [f"{counted(rows, 'row')} gone that the champion was trained on"] if rows and not fresh else []


def _too_old(age_days: float, allowed: float) -> list[str]:
    """Say whether a champion is too old; one from the future counts as old, or it would never become so."""
    if age_days < -_CLOCKS_DIFFER:
        return [f"the champion was put in place {-age_days:.1f} days from now: a clock was wrong, its age is not known"]
    return [f"the champion is {age_days:.1f} days old, allowed {allowed:g}"] if age_days > allowed else []


def _files(news: Mapping[str, News]) -> str:
    return ", ".join(f"{name}: {of.changes}" for name, of in news.items())


def worth_promoting(differences: Sequence[Difference], policy: Retrain, path: str, metric: Metric) -> Verdict:
    """Judge the challenger against the champion by the paired interval of one declared comparison.

    `differences` are challenger - champion; empty where the champion cannot be measured on these rows. The declared
    one is of `path`, evaluation/metric, and `metric` is what that names. One that is undefined promotes nothing.
    """
    evaluation = path.partition("/")[0]
    compared = next((d for d in differences if (d.evaluation, d.metric) == (evaluation, metric.name)), None)
    if compared is None:
        return Verdict(go=True, reasons=("the champion cannot be measured on these labels; the gates alone decide",))
    sign = 1.0 if metric.higher_is_better else -1.0
    if (three := compared.estimate.numbers()) is None:
        remedy = "add such rows, or name another metric in retrain.compare"
        return Verdict(go=False, reasons=(f"{path} is undefined here: {compared.estimate.undefined}; {remedy}",))
    low, value, high = three
    worst = min(sign * low, sign * high)
    interval = f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
    measured = f"{path} differs by {interval} from the champion's"
    if compared.identical_rows:
        measured = f"both gave identical answers on {counted(compared.identical_rows, 'row')} ({path})"
    if policy.promote == "better":
        return Verdict(go=worst > 0.0, reasons=(f"{measured}; the rule is an interval that leaves out zero",))
    return Verdict(
        go=worst >= -policy.margin, reasons=(f"{measured}; the rule is a loss of at most {policy.margin:g}",)
    )
