"""A stage's signs of life as lines of rich's markup: the same words on a terminal and on a run's page."""

from rich.markup import escape

from ftlib.data.row_reasons import reasons, remedies
from ftlib.progress import Progress
from ftlib.wording import counted, some
from tasks.runner import CHANGED, DROPPED, SPELT

_NAMED = 3
"""Special tokens that a line names."""


def stage_line(sign: Progress) -> str:
    """Say that a stage is done, now or before; rows that it dropped with the reasons, and what to do about them."""
    when = "done before" if sign.facts.get("done_before") else f"{sign.facts.get('seconds', 0.0):.1f} s"
    dropped = {name.removeprefix(DROPPED): int(n) for name, n in sign.facts.items() if name.startswith(DROPPED)}
    if "rows_in" in sign.facts:
        when += f", {sign.facts['rows_kept']:,.0f} of {sign.facts['rows_in']:,.0f} rows kept"
    if dropped:
        when += f": {reasons(dropped)}"
    spelt = [(name.removeprefix(SPELT), rows) for name, rows in sign.facts.items() if name.startswith(SPELT)]
    if spelt:
        tokens = [f"{escape(token)} in {counted(int(rows), 'row')}" for token, rows in spelt]
        when += f", texts spell special tokens: {some(tokens, _NAMED)}"
    changed = [(name.removeprefix(CHANGED), rows) for name, rows in sign.facts.items() if name.startswith(CHANGED)]
    if changed:
        changes = [f"{change.replace('_', ' ')} in {counted(int(rows), 'image')}" for change, rows in changed]
        when += f"; {', '.join(changes)}"
    if "resumed_from_step" in sign.facts:
        when += f", resumed from step {sign.facts['resumed_from_step']:.0f}"
    told = [f"\n  [yellow]{escape(remedy)}[/]" for remedy in remedy_lines(sign)]
    return f"[green]✓[/] {sign.stage:<36} [dim]{when}[/]{''.join(told)}"


def remedy_lines(sign: Progress) -> list[str]:
    """Return what to do about the rows that a stage dropped, a line each."""
    return remedies([name.removeprefix(DROPPED) for name in sign.facts if name.startswith(DROPPED)])


def restart_line(sign: Progress) -> str:
    """Say that workers began again: one was lost, or the run had been stopped."""
    where = f"goes on from step {sign.done}" if sign.done else "starts again: there was no checkpoint yet"
    return f"[yellow]↻[/] {sign.stage:<36} [dim]a worker was lost or the run was stopped; training {where}[/]"


def note_line(sign: Progress) -> str:
    """Say in words what a user should know."""
    return f"[yellow]![/] {escape(sign.text)}"


def facts_line(sign: Progress) -> str:
    """Write the numbers beside a bar: loss 1.23  samples/s 45.6."""
    names = {"samples_per_second": "samples/s", "tokens_per_second": "tokens/s", "learning_rate": "lr"}
    return "  ".join(f"{names.get(name, name.replace('_', ' '))} {value:.4g}" for name, value in sign.facts.items())
