"""What `reglage retrain` prints."""

from __future__ import annotations

from typing import Any

from flows.command_line.console import stdout_console
from flows.command_line.run_summary import print_page
from flows.pages.rows_page import rows_lines, rows_record
from flows.retraining.challenge import Challenge
from flows.retraining.retrain_page import compared, ledgers_of


def print_retraining(challenge: Challenge, work: str) -> None:
    """Print what a retraining came to."""
    from rich.markup import escape

    console = stdout_console()
    reasons = escape("; ".join(challenge.reasons))
    console.print(f"[bold]{challenge.title.lower()}[/]: {reasons}", soft_wrap=True, markup=True)
    if challenge.worth and challenge.worth.go:
        console.print(f"trained because {challenge.worth}", soft_wrap=True, style="dim")
    said = " ".join((*challenge.reasons, str(challenge.worth or "")))
    for line in (f"{name}: {changes}" for name, changes in challenge.changes.items()):
        if line not in said:  # the reasons name the files that are new
            console.print(line, soft_wrap=True, style="dim")
    for line in rows_lines(ledgers_of(challenge)):
        console.print(line, soft_wrap=True, style="dim")
    for d in challenge.differences:
        console.print(f"{d.evaluation}/{d.metric}  {'  '.join(compared(d))}".rstrip())
    if challenge.version:
        console.print(
            f"challenger {challenge.version.name}@{challenge.version.version} in {challenge.version.registry}"
        )
    if challenge.report:
        print_page(console, "report", work, f"runs/{challenge.recipe.name}/report.html")
    print_page(console, "page", work, f"runs/{challenge.recipe.name}/retrain.md")
    if challenge.cost:
        console.print(f"cost       {challenge.cost.line()}", style="dim", soft_wrap=True)


def as_record(challenge: Challenge) -> dict[str, Any]:
    """Return the same for scripts."""
    news = challenge.news
    return {
        "outcome": challenge.what,
        "reasons": list(challenge.reasons),
        "worth": challenge.worth and challenge.worth.model_dump(mode="json"),
        "news": {
            name: {
                **{
                    kind: len(getattr(changes, kind))
                    for kind in ("added", "edited", "vanished", "unchanged", "waiting")
                },
                "fresh_rows": news[name].fresh_rows if name in news else None,
                "drifts": [d.model_dump(mode="json") for d in news[name].drifts] if name in news else [],
            }
            for name, changes in challenge.changes.items()
        },
        "rows": rows_record(ledgers_of(challenge)),
        "champion": challenge.champion and challenge.champion.model_dump(mode="json"),
        "differences": [d.model_dump(mode="json") for d in challenge.differences],
        "version": challenge.version and challenge.version.model_dump(mode="json"),
        "cost": challenge.cost and challenge.cost.model_dump(mode="json"),
        "steps": [step.model_dump(mode="json") for step in challenge.steps],
    }
