"""Two workers against one on the same cores: `python -m benchmarks.workers`.

The global batches are the same, so with dropout off the loss curves differ by the order of floating-point sums only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.contestants import Task
from benchmarks.machine import cores, describe_machine
from benchmarks.material import prepare
from benchmarks.rounds import can_record, fresh_process, interleaved, middle, print_result, print_table, spread

WORKERS = {"one worker": 1, "two workers": 2}


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default=Path("recipes/quickstart.yaml"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the recipe.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("benchmark-work"), show_default=True)
@click.option("--rows", type=int, help="Training rows; all by default.")
@click.option("--epochs", type=float, help="Of the last phase; the recipe's by default.")
@click.option("--repetitions", type=int, default=3, show_default=True)
@click.option("--threads", type=int, default=max(2, cores()), show_default=True, help="Of all workers together.")
@can_record
def main(
    recipe: Path,
    overrides: tuple[str, ...],
    work: Path,
    rows: int | None,
    epochs: float | None,
    repetitions: int,
    threads: int,
) -> None:
    """Measure how far two workers' loss curve is from one worker's, and how fast they are."""
    changes = [*overrides, "phases.-1.dropout=0.0", *([f"phases.-1.optimizer.epochs={epochs}"] if epochs else [])]
    material = prepare(recipe, changes, work, rows)

    def measure(name: str, repetition: int) -> dict[str, Any]:
        task = Task(
            contestant="reglage_ray", material=material, threads=threads, seed=repetition, workers=WORKERS[name]
        )
        return fresh_process("benchmarks.contestants", task.model_dump(mode="json"), threads=threads)

    outcomes = interleaved(list(WORKERS), repetitions, measure)
    title = f"{material.rows} rows, {material.steps} steps of {material.phase.optimizer.batch_size}, {threads} threads"
    table = [
        [
            name,
            f"{middle(found, 'samples_per_second'):.1f}",
            spread(found, "samples_per_second"),
            f"{middle(found, 'wall_seconds'):.1f}",
            f"{found[0]['losses'][0]:.6f}",
            f"{found[0]['losses'][-1]:.6f}",
        ]
        for name, found in outcomes.items()
    ]
    print_table(title, ("", "samples/s", "lowest to highest", "wall s", "first loss", "last loss"), table)
    one, two = (outcomes[name] for name in WORKERS)
    ratios = {
        "largest_relative_loss_difference": max(
            curve_distance(a["losses"], b["losses"]) for a, b in zip(one, two, strict=True)
        ),
        "two_over_one_samples_per_second": round(
            middle(two, "samples_per_second") / middle(one, "samples_per_second"), 3
        ),
    }
    settings = {
        "rows": material.rows,
        "epochs": material.phase.optimizer.epochs,
        "steps": material.steps,
        "batch_size": material.phase.optimizer.batch_size,
        "threads_together": threads,
        "repetitions": repetitions,
        **describe_machine(),
    }
    print_result("workers", ratios, settings)


def curve_distance(ours: list[float], theirs: list[float]) -> float:
    """Return the largest relative difference of two loss curves of equal length."""
    a, b = np.array(ours), np.array(theirs)
    if a.shape != b.shape:
        raise ValueError(f"the curves have {len(a)} and {len(b)} steps; one of the runs was cut short")
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-12)))


if __name__ == "__main__":
    main()
