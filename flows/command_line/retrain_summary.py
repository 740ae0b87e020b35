"""What `reglage retrain` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.challenge import Challenge
from flows.command_line.console import stdout_console
from flows.retrain_page import compared, ledgers_of
from flows.rows_page import rows_lines, rows_record


def print_retraining(found: Challenge, work: Path) -> None:
    """Print what a retraining came to."""
    from rich.markup import escape

    console = stdout_console()
    console.print(f"[bold]{found.title.lower()}[/]: {escape('; '.join(found.reasons))}", soft_wrap=True)
    if found.worth and found.worth.go:
        console.print(f"trained because {escape(str(found.worth))}", soft_wrap=True, style="dim")
    for name, changes in found.changes.items():
        console.print(f"{name}: {changes}", soft_wrap=True, style="dim")
    for line in rows_lines(ledgers_of(found)):
        console.print(line, soft_wrap=True, style="dim")
    for d in found.differences:
        console.print(f"{d.evaluation}/{d.metric}  {'  '.join(compared(d))}".rstrip())
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
        "rows": rows_record(ledgers_of(found)),
        "champion": found.champion and found.champion.model_dump(mode="json"),
        "differences": [d.model_dump(mode="json") for d in found.differences],
        "version": found.version and found.version.model_dump(mode="json"),
        "steps": [step.model_dump(mode="json") for step in found.steps],
    }
