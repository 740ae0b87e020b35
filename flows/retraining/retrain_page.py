"""The page of a retraining: what was new, why it trained, challenger against champion, the decision and its rule."""

from collections.abc import Iterator, Sequence

from flows.pages.rows_page import ledgers, rows_markdown
from flows.pages.run_page import artifact_key, show_markdown
from flows.retraining.challenge import Challenge, held_by
from ftlib.data.datasets import Ledger
from ftlib.evaluation.results import Difference, interval_text, results, text_table
from ftlib.wording import counted, escaped, table
from ftlib.workspace import Workspace, overwrite


def show_retraining(challenge: Challenge, work: Workspace) -> None:
    """Put the page on the run, where a model's retrainings form a timeline, and into the run's folder."""
    text = markdown(challenge)
    name = challenge.recipe.publish.name
    show_markdown(artifact_key("retrain", name), text, f"Retraining of {name}")
    overwrite(work, f"runs/{challenge.recipe.name}/retrain.md", text.encode())


def ledgers_of(challenge: Challenge) -> dict[str, Ledger]:
    """Return where every row of a retraining went; empty where none was read."""
    return ledgers(challenge.evidence.raw, challenge.evidence.prepared) if challenge.evidence else {}


def markdown(challenge: Challenge, report: str | None = None) -> str:
    """Return the page's text, with a link to the challenger's report where it has an address."""
    title, reasons, *rest = _parts(challenge)
    link = [f"[The challenger's report, with its plots]({report})"] if report else []
    return "\n\n".join([title, reasons, *link, *rest]) + "\n"


def _parts(challenge: Challenge) -> Iterator[str]:
    """Yield the sections of the page in order: the outcome first, then why, then what was compared."""
    yield f"# {challenge.recipe.publish.name}: {challenge.title.lower()}"
    yield _list(challenge.reasons)
    if challenge.hold and challenge.what == "waiting":  # where it ended as Held that is the reason
        yield f"**Held:** {escaped(held_by(challenge.hold))}."
    if challenge.supersedes:
        yield f"It takes the place of {', '.join(challenge.supersedes)}, which waited for approval."
    worth = challenge.worth
    if worth and worth.reasons != challenge.reasons:  # a skip's outcome is its reason
        yield f"## {'Why it trained' if worth.go else 'Why it did not train'}\n\n{_list(worth.reasons)}"
    if challenge.differences:
        yield (
            "## Challenger against champion\n\nPaired on the same rows; in brackets the confidence interval.\n\n"
            + table(
                [
                    ["evaluation", "metric", "challenger - champion", ""],
                    *([d.evaluation, d.metric, *compared(d)] for d in challenge.differences),
                ]
            )
        )
    yield "## What is new\n\n" + table(_news(challenge))
    if challenge.evidence:
        yield "## Rows\n\n" + rows_markdown(challenge.evidence.raw, challenge.evidence.prepared)
        yield "## Measured on the report splits\n\n" + table(
            text_table(
                results(
                    (*challenge.evidence.final, *challenge.champion_cells),
                    challenge.evidence.selection,
                    challenge.evidence.recipe.evaluations,
                )
            )
        )
        if slices := _slices(challenge):
            yield (
                "## Slices\n\nThe challenger beside the champion, where their first metric differs most on top.\n\n"
                + table(slices)
            )
    if version := challenge.version:
        in_place = f"version {challenge.champion.version} was in place" if challenge.champion else "none was in place"
        yield f"Challenger: {version.name}@{version.version} in {version.registry}; {in_place}."


def compared(d: Difference) -> list[str]:
    """Return a difference and its verdict; of two that answer alike there is nothing to be undecided about."""
    if d.identical_rows:
        return [f"identical answers on {counted(d.identical_rows, 'row')}", ""]
    return [interval_text(d.estimate), d.verdict]


def _slices(challenge: Challenge) -> list[list[str]]:
    """Return both models on every slice, by the evaluation's first metric; empty where no format names slices."""
    if challenge.evidence is None:
        return []
    recipe, chosen = challenge.evidence.recipe, challenge.evidence.selection.chosen.name
    ours = {
        m.evaluation: m.slices for report in challenge.evidence.final for m in report.measured if m.candidate == chosen
    }
    theirs = {m.evaluation: m.slices for report in challenge.champion_cells for m in report.measured}
    rows: list[tuple[float, list[str]]] = []
    for evaluation, slices in ours.items():
        metric = recipe.evaluations[evaluation].metrics[0].name
        for name, facts in slices.items():
            mine = facts.metrics.get(metric)
            before = theirs.get(evaluation, {}).get(name)
            other = before and before.metrics.get(metric)
            values = [estimate.value for estimate in (mine, other) if estimate and estimate.value is not None]
            apart = max(values) - min(values) if len(values) == 2 else 0.0
            cells = [evaluation, name, str(facts.rows), metric, interval_text(mine), interval_text(other)]
            rows.append((apart, cells))
    head = ["evaluation", "slice", "rows", "metric", "challenger", "champion"]
    return [head, *(cells for _, cells in sorted(rows, key=lambda row: -row[0]))] if rows else []


def _news(challenge: Challenge) -> list[list[str]]:
    rows = [["dataset", "files new", "edited", "gone", "unchanged", "waiting", "fresh rows", "drift"]]
    for name, changes in challenge.changes.items():
        of = challenge.news.get(name)
        files = (changes.added, changes.edited, changes.vanished, changes.unchanged, changes.waiting)
        counts = [str(len(group)) for group in files]
        drifts = "; ".join(str(drift) for drift in of.drifts) if of else ""
        rows.append([name, *counts, str(of.fresh_rows) if of else "not read", drifts or "–"])
    return rows


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
