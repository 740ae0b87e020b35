"""The page of a retraining: what was new, why it trained, challenger against champion, the decision and its rule."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.challenge import Challenge
from flows.console import stdout_console
from flows.rows_page import ledgers, plain, rows_lines, rows_markdown, rows_record, table
from flows.run_page import artifact_key
from ftlib.artifacts import Ledger
from ftlib.results import interval_text, results, text_table
from ftlib.workspace import Workspace, write_durably


def show_retraining(found: Challenge, work: Workspace) -> None:
    """Put the page on the run, where a model's retrainings form a timeline, and into the run's folder."""
    text = markdown(found)
    name = found.recipe.publish.name
    create_markdown_artifact(key=artifact_key("retrain", name), markdown=text, description=f"Retraining of {name}")
    folder = work.root / "runs" / found.recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "retrain.md", text.encode())


def print_retraining(found: Challenge, work: Path) -> None:
    """Print what a retraining came to."""
    from rich.markup import escape

    console = stdout_console()
    console.print(f"[bold]{found.title.lower()}[/]: {escape('; '.join(found.reasons))}", soft_wrap=True)
    if found.worth and found.worth.go:
        console.print(f"trained because {escape(str(found.worth))}", soft_wrap=True, style="dim")
    for name, changes in found.changes.items():
        console.print(f"{name}: {changes}", soft_wrap=True, style="dim")
    for line in rows_lines(_ledgers(found)):
        console.print(line, soft_wrap=True, style="dim")
    for d in found.differences:
        console.print(f"{d.evaluation}/{d.metric}  {interval_text(d.estimate)}  {d.verdict}")
    if found.version:
        console.print(f"challenger {found.version.name}@{found.version.version} in {found.version.registry}")
    if found.report:
        console.print(f"report     {work / 'runs' / found.recipe.name / 'report.html'}", soft_wrap=True)
    console.print(f"page       {work / 'runs' / found.recipe.name / 'retrain.md'}", soft_wrap=True)


def as_record(found: Challenge) -> dict[str, Any]:
    """Return the same for scripts."""
    return {
        "outcome": found.what,
        "reasons": list(found.reasons),
        "worth": found.worth and found.worth.model_dump(mode="json"),
        "news": {
            name: {
                **{
                    kind: len(getattr(changes, kind))
                    for kind in ("added", "edited", "vanished", "unchanged", "waiting")
                },
                "fresh_rows": found.news[name].fresh_rows if name in found.news else None,
                "drifts": [d.model_dump(mode="json") for d in found.news[name].drifts] if name in found.news else [],
            }
            for name, changes in found.changes.items()
        },
        "rows": rows_record(_ledgers(found)),
        "champion": found.champion and found.champion.model_dump(mode="json"),
        "differences": [d.model_dump(mode="json") for d in found.differences],
        "version": found.version and found.version.model_dump(mode="json"),
        "steps": [step.model_dump(mode="json") for step in found.steps],
    }


def _ledgers(found: Challenge) -> dict[str, Ledger]:
    return ledgers(found.evidence.raw, found.evidence.prepared) if found.evidence else {}


def markdown(found: Challenge) -> str:
    """Return the page's text."""
    return "\n\n".join(_parts(found)) + "\n"


def _parts(found: Challenge) -> Iterator[str]:
    yield f"# {found.recipe.publish.name}: {found.title.lower()}"
    yield _list(found.reasons)
    if found.worth and found.worth.reasons != found.reasons:  # a skip's outcome is its reason
        yield f"## {'Why it trained' if found.worth.go else 'Why it did not train'}\n\n{_list(found.worth.reasons)}"
    if found.differences:
        yield (
            "## Challenger against champion\n\nPaired on the same rows; in brackets the confidence interval.\n\n"
            + table(
                [
                    ["evaluation", "metric", "challenger - champion", ""],
                    *([d.evaluation, d.metric, interval_text(d.estimate), d.verdict] for d in found.differences),
                ]
            )
        )
    yield "## What is new\n\n" + table(_news(found))
    if found.evidence:
        yield "## Rows\n\n" + rows_markdown(found.evidence.raw, found.evidence.prepared)
        yield "## Measured on the report splits\n\n" + table(
            text_table(
                results(
                    (*found.evidence.final, *found.champion_cells),
                    found.evidence.selection,
                    found.evidence.recipe.evaluations,
                )
            )
        )
    if found.version:
        place = f"version {found.champion.version} was in place" if found.champion else "none was in place"
        yield f"Challenger: {found.version.name}@{found.version.version} in {found.version.registry}; {place}."


def _news(found: Challenge) -> list[list[str]]:
    rows = [["dataset", "files new", "edited", "gone", "unchanged", "waiting", "fresh rows", "drift"]]
    for name, changes in found.changes.items():
        of = found.news.get(name)
        files = (changes.added, changes.edited, changes.vanished, changes.unchanged, changes.waiting)
        counts = [str(len(group)) for group in files]
        drifts = "; ".join(str(drift) for drift in of.drifts) if of else ""
        rows.append([name, *counts, str(of.fresh_rows) if of else "not read", drifts or "–"])
    return rows


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)
