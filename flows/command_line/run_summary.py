"""How a run ends on the terminal: the table, the page, the version, and the command that pulls it."""

from pathlib import Path
from typing import Any

from rich.console import Console

from flows.command_line.console import stdout_console
from flows.command_line.results_table import Line, print_results
from flows.pages.rows_page import ledgers, personal_lines, rows_lines, rows_record
from flows.run.record import RunRecord
from ftlib.evaluation.results import results
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.places import Registry
from ftlib.registry.publish import Publish
from ftlib.report.learning_curve import learning
from ftlib.report.suspects import found_suspects, suspects_line
from ftlib.storage.place import is_remote
from ftlib.wording import counted
from ftlib.workspace import Workspace


def print_summary(record: RunRecord, work: str) -> None:
    """Print what a run came to."""
    console, evidence = stdout_console(), record.evidence
    rows = results(evidence.final, evidence.selection, evidence.recipe.evaluations)
    for name in evidence.recipe.evaluations:
        of_this = [row for row in rows if row.evaluation == name]
        title = f"{name} ({of_this[0].role}, {counted(of_this[0].rows, 'row')})"
        print_results(console, title, [Line(row.model, row.metrics, row.chosen) for row in of_this])
    console.print(f"{evidence.selection.why}\n", style="dim")
    if record.all_done_before():
        console.print("every stage was done already; nothing changed")
    for line in rows_lines(ledgers(evidence.raw, evidence.prepared)):
        console.print(line, soft_wrap=True)
    for line in personal_lines(evidence.raw, evidence.recipe.datasets):
        console.print(line, soft_wrap=True)
    for one in learning(evidence, Workspace(work)):
        console.print(one.said, soft_wrap=True)
    if line := suspects_line(evidence, Workspace(work)):
        listed = page_in(work, f"runs/{evidence.recipe.name}/{record.report.suspects}")
        console.print(f"suspects   {line}: {listed}", soft_wrap=True)
    print_page(console, "report", work, f"runs/{evidence.recipe.name}/report.html")
    console.print(outcome_line(record.result, evidence.recipe.publish), soft_wrap=True, markup=True)
    if record.wall_seconds:
        console.print(
            f"time       {record.wall_seconds:.0f} s: {record.work_seconds:.0f} s in the stages, "
            f"{record.overhead_seconds:.0f} s around them",
            style="dim",
        )
    if record.cost:
        console.print(f"cost       {record.cost.line()}", style="dim", soft_wrap=True)


def as_record(record: RunRecord, work: str) -> dict[str, Any]:
    """Return the same for scripts."""
    evidence = record.evidence
    version = record.result if isinstance(record.result, ModelVersion) else None
    rows = results(evidence.final, evidence.selection, evidence.recipe.evaluations)
    page = f"runs/{evidence.recipe.name}/report.html"
    return {
        "name": evidence.recipe.name,
        "results": [row.model_dump(mode="json") for row in rows],
        "chosen": evidence.selection.chosen.name,
        "alpha": evidence.selection.chosen.alpha,
        "why": evidence.selection.why,
        "learning_curve": [one.model_dump(mode="json") for one in learning(evidence, Workspace(work))],
        "suspects": [one.model_dump(mode="json") for one in found_suspects(evidence, Workspace(work)) or []],
        "rows": rows_record(ledgers(evidence.raw, evidence.prepared)),
        "report": page_in(work, page),
        "report_file": str(Workspace(work).root / page),
        "version": version and version.model_dump(mode="json"),
        "pull": version and _pull_command(version, evidence.recipe.publish.to),
        "refused": list(record.result.reasons) if isinstance(record.result, Refusal) else [],
        "all_done_before": record.all_done_before(),
        "steps": [step.model_dump(mode="json") for step in record.steps],
        "wall_seconds": record.wall_seconds,
        "work_seconds": round(record.work_seconds, 3),
        "overhead_seconds": round(record.overhead_seconds, 3),
        "cost": record.cost and record.cost.model_dump(mode="json"),
    }


def print_page(console: Console, what: str, work: str, page: str) -> None:
    """Say where a page is; one that is in a bucket is opened from this machine's copy."""
    console.print(f"{what:<11}{page_in(work, page)}", soft_wrap=True)
    if is_remote(work):
        console.print(f"{'to open':<11}{Workspace(work).root / page}", soft_wrap=True)


def page_in(work: str, page: str) -> str:
    """Return where a page of a work place is, as its user wrote the place."""
    return f"{Workspace(work)}/{page}" if is_remote(work) else str(Path(work, page))


def outcome_line(result: ModelVersion | Refusal, publish: Publish) -> str:
    """Say in rich's markup how a publication ended."""
    from rich.markup import escape

    if isinstance(result, Refusal):
        return "[bold]not published[/]: " + escape("; ".join(result.reasons))
    state = "published " if result.created else "there already"
    lines = [
        f"[bold]{state} {result.name}@{result.version}[/] in {escape(result.registry)}",
        f"pull it    {escape(_pull_command(result, publish.to))}",
        *(["adapter    in adapter/, beside the model; its README.md loads it"] if publish.adapter else []),
    ]
    return "\n".join(lines)


def _pull_command(version: ModelVersion, to: Registry) -> str:
    spec = f"{version.name}@{version.version}"
    return f"reglage registry pull {spec} {version.name} --registry {version.registry}{to.place().server_option()}"
