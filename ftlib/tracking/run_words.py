"""A run in words: the cells of a table of runs, and two runs compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftlib.costs.prices import money
from ftlib.errors import ReglageError, first_line
from ftlib.evaluation.measured import EvalReport, tables_in
from ftlib.evaluation.results import differences, interval_text, number
from ftlib.storage.files import in_bytes
from ftlib.tracking.run_choice import LACKS, unlike
from ftlib.tracking.run_facts import RunFacts
from ftlib.workspace import Workspace

ROLES = ("target", "shifted", "retained")


def main_metrics(found: Sequence[RunFacts], most: int = 3) -> list[str]:
    """Return the first metric of each evaluation that any run measured: the target's first, at most so many."""
    first: dict[str, str] = {}
    roles: dict[str, str] = {}
    for facts in found:
        for metric in facts.metrics:
            evaluation = metric.partition("/")[0]
            first.setdefault(evaluation, metric)
            roles.setdefault(evaluation, facts.evaluations[evaluation].role)
    return sorted(first.values(), key=lambda metric: ROLES.index(roles[metric.partition("/")[0]]))[:most]


def titles(metrics: Sequence[str]) -> list[str]:
    """Return a table's head."""
    return ["run", "state", "version", "chosen", *metrics, "forgot", "seconds", "memory", "cost", "when (UTC)"]


def row_of(facts: RunFacts, metrics: Sequence[str]) -> list[str]:
    """Return a run's cells."""
    return [
        facts.name,
        facts.state,
        facts.version or LACKS,
        facts.chosen or LACKS,
        *(interval_text(facts.metrics.get(metric)) for metric in metrics),
        forgot(facts),
        f"{facts.work_seconds:.0f}",
        memory(facts),
        f"{money(facts.cost.total)} {facts.cost.currency}" if facts.cost else LACKS,
        f"{facts.when:%Y-%m-%d %H:%M}",
    ]


def memory(facts: RunFacts) -> str:
    """Return what a training held, and what was predicted of it."""
    held = LACKS if facts.memory_bytes is None else in_bytes(facts.memory_bytes)
    predicted = facts.predicted_memory_bytes
    return held if predicted is None else f"{held} (predicted {in_bytes(predicted)})"


def forgot(facts: RunFacts) -> str:
    """Return the first retained metric as `0.81 from 0.84`; a dash where nothing of that was measured."""
    one = next(iter(facts.forgetting.values()), None)
    return LACKS if one is None else f"{number(one.after)} from {number(one.before)}"


def compared(ours: RunFacts, theirs: RunFacts, work: Workspace) -> list[str]:
    """Say in what two recipes differ, and each metric's difference on the same rows."""
    lines = [f"{ours.name} ({ours.state}) against {theirs.name} ({theirs.state})"]
    lines += [
        f"{path}: {mine} against {other}" for path, (mine, other) in unlike(ours.parameters, theirs.parameters).items()
    ]
    if len(lines) == 1:
        lines.append("the recipes are the same")
    differ = [*_differences(ours, theirs, work)]
    return lines + (differ or ["no metric was measured of both"])


def _differences(ours: RunFacts, theirs: RunFacts, work: Workspace) -> Iterator[str]:
    """Yield every evaluation's paired differences, or why there are none."""
    both = (name for name in ours.cells if name in theirs.cells and name in ours.evaluations)
    for name in both:
        cells = tuple(
            one.cells[name].model_copy(update={"candidate": one.name, "evaluation": name}) for one in (ours, theirs)
        )
        report = EvalReport(uri="", fingerprint="", seconds=0.0, measured=cells)
        asked = {name: ours.evaluations[name]}
        try:
            for one in differences(ours.name, theirs.name, [report], asked, tables_in(work), ours.seed):
                yield one.line().replace(" (Holm)", "")  # each stands alone
        except (ReglageError, OSError) as error:
            for metric in cells[0].metrics:
                mine, other = (interval_text(cell.metrics.get(metric)) for cell in cells)
                yield f"{name}/{metric}: {mine} against {other}; not compared in pairs: {first_line(error)}"
