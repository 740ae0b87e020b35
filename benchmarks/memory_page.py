"""The records of predicted and measured memory, and the table that docs/plan.md has of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "benchmarks" / "baselines" / "memory.jsonl"
PAGE = ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- memory: made by `python -m benchmarks.memory_table --page` -->", "<!-- end of memory -->"


@dataclass(frozen=True)
class Held:
    """What one training was predicted to hold, and what it held."""

    tuning: str
    optimizer: str
    predicted: int
    """Bytes."""
    measured: int
    """Bytes; 0 where the optimiser refuses the tuning, which trains nothing that it is made for."""
    at: str
    torch: str

    @property
    def off(self) -> float:
        """Return by which share of what was measured the prediction is off."""
        return self.predicted / self.measured - 1.0


def read(path: Path = BASELINE) -> list[Held]:
    """Return what is recorded; of a tuning by an optimiser the last record counts."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [Held(**json.loads(line)) for line in lines]
    return [*{(one.tuning, one.optimizer): one for one in found}.values()]


def append(held: Held, path: Path = BASELINE) -> None:
    """Write one more record."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(held)) + "\n")


def table(held: Sequence[Held]) -> str:
    """Return the table in Markdown: a row a tuning, a column an optimiser; measured MB, and how far off they were."""
    optimizers, tunings = [*{one.optimizer: 0 for one in held}], [*{one.tuning: 0 for one in held}]
    cells = {(one.tuning, one.optimizer): _cell(one) for one in held}
    lines = [f"| MB | {' | '.join(optimizers)} |", f"|---|{'---:|' * len(optimizers)}"]
    lines += [f"| {name} | {' | '.join(cells.get((name, by), '') for by in optimizers)} |" for name in tunings]
    return "\n".join(lines)


def _cell(one: Held) -> str:
    return f"{one.measured / 1e6:,.0f} {one.off:+.1%}" if one.measured else "refused"


def page(text: str, held: Sequence[Held]) -> str:
    """Return the page with its table made anew. Raises ValueError where it has no place for one."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no {BEGIN} and {END}")
    days = sorted(one.at[:10] for one in held)
    off = sorted(one.off for one in held if one.measured)
    within = sum(abs(share) <= 0.1 for share in off)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    said = (
        f"{when}, torch {held[-1].torch}: {within} of {len(off)} predictions are within 10 % of what was measured,\n"
        f"from {off[0]:+.1%} to {off[-1]:+.1%}."
    )
    return f"{head}{BEGIN}\n\n{said}\n\n{table(held)}\n\n{END}{tail}"
