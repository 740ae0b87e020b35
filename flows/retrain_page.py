"""The page of a retraining: what was new, why it trained, challenger against champion, the decision and its rule."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.challenge import Challenge
from flows.console import stdout_console
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
        "champion": found.champion and found.champion.model_dump(mode="json"),
        "differences": [d.model_dump(mode="json") for d in found.differences],
        "version": found.version and found.version.model_dump(mode="json"),
        "steps": [step.model_dump(mode="json") for step in found.steps],
    }


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
            + _table(
                [
                    ["evaluation", "metric", "challenger - champion", ""],
                    *([d.evaluation, d.metric, interval_text(d.estimate), d.verdict] for d in found.differences),
                ]
            )
        )
    yield "## What is new\n\n" + _table(_news(found))
    if found.evidence:
        yield "## Rows\n\n" + _table(_rows(found))
        yield "## Measured on the report splits\n\n" + _table(
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


def _rows(found: Challenge) -> list[list[str]]:
    rows = [["dataset", "step", "rows in", "kept", "dropped"]]
    if found.evidence:
        for name in found.evidence.raw:
            rows.append([name, "ingest", *_ledger(found.evidence.raw[name].ledger)])
            rows.append([name, "preprocess", *_ledger(found.evidence.prepared[name].ledger)])
    return rows


def _ledger(ledger: Ledger) -> list[str]:
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in ledger.dropped.items())
    return [str(ledger.rows_in), str(ledger.kept), dropped or "none"]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _plain(text: str) -> str:
    """Keep what rows and reasons hold from being read as markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
