"""Training throughput against the transformers Trainer: `python -m benchmarks.train_throughput`.

The same rows, starting weights, epochs, batch size, learning rate and threads, one process with all cores. Final
quality is compared too: speed bought with accuracy would be no speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

from benchmarks.contestants import Contestant, Task
from benchmarks.machine import cores, describe_machine
from benchmarks.material import Material, prepare
from benchmarks.rounds import can_record, fresh_process, interleaved, middle, print_result, print_table, spread

TARGETS = {"over_trainer": 1.8, "over_tuned_trainer": 1.0, "ray_over_in_process": 0.95}
TUNED = ("trainer_tuned", "trainer_tuned_loader")

NAMES = {
    "reglage": "Réglage, in process",
    "reglage_ray": "Réglage, one Ray worker",
    "trainer": "Trainer, defaults",
    "trainer_tuned": "Trainer, tuned",
    "trainer_tuned_loader": "Trainer, tuned, loader process",
}


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default=Path("recipes/quickstart.yaml"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the recipe.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("benchmark-work"), show_default=True)
@click.option("--rows", type=int, help="Training rows; all by default.")
@click.option("--epochs", type=float, help="Of the last phase; the recipe's by default.")
@click.option("--repetitions", type=int, default=3, show_default=True)
@click.option("--threads", type=int, default=cores(), show_default=True)
@click.option("--only", multiple=True, type=click.Choice(get_args(Contestant)), help="Leave the others out.")
@can_record
def main(
    recipe: Path,
    overrides: tuple[str, ...],
    work: Path,
    rows: int | None,
    epochs: float | None,
    repetitions: int,
    threads: int,
    only: tuple[str, ...],
) -> None:
    """Measure samples/s of the recipe's last phase."""
    changes = [*overrides, *([f"phases.-1.optimizer.epochs={epochs}"] if epochs else [])]
    material = prepare(recipe, changes, work, rows)
    names = [name for name in get_args(Contestant) if name in (only or NAMES)]

    def measure(name: str, repetition: int) -> dict[str, Any]:
        task = Task.model_validate({"contestant": name, "material": material, "threads": threads, "seed": repetition})
        return fresh_process("benchmarks.contestants", task.model_dump(mode="json"), threads=threads)

    outcomes = interleaved(names, repetitions, measure)
    _print_speeds(outcomes, material, threads)
    ratios = speed_ratios(outcomes) | _qualities(outcomes)
    optimizer = material.phase.optimizer
    settings = {
        "rows": material.rows,
        "epochs": optimizer.epochs,
        "steps": material.steps,
        "batch_size": optimizer.batch_size,
        "learning_rate": optimizer.learning_rate,
        "threads": threads,
        "repetitions": repetitions,
        "targets": TARGETS,
        **describe_machine(),
    }
    print_result("train_throughput", ratios, settings)


def speed_ratios(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return our samples/s over the others', where both were measured."""
    speed = {name: middle(found, "samples_per_second") for name, found in outcomes.items()}
    ratios: dict[str, Any] = {"samples_per_second": {name: round(value, 2) for name, value in speed.items()}}
    tuned = [speed[name] for name in TUNED if name in speed]
    if "reglage" in speed and "trainer" in speed:
        ratios["over_trainer"] = round(speed["reglage"] / speed["trainer"], 3)
        ratios["over_trainer_by_cpu_time"] = _by_cpu_time(outcomes, "trainer")
    if "reglage" in speed and tuned:
        ratios["over_tuned_trainer"] = round(speed["reglage"] / max(tuned), 3)  # the better of the tuned ones
    if "reglage" in speed and "trainer_tuned" in speed:
        ratios["over_tuned_trainer_by_cpu_time"] = _by_cpu_time(outcomes, "trainer_tuned")
    if "reglage" in speed and "reglage_ray" in speed:
        # Both by the loop's own clock: from outside, Ray's steps are seen late.
        loop = {name: middle(outcomes[name], "loop_samples_per_second") for name in ("reglage", "reglage_ray")}
        ratios["ray_over_in_process"] = round(loop["reglage_ray"] / loop["reglage"], 3)
        ratios["ray_wall_seconds"] = round(middle(outcomes["reglage_ray"], "wall_seconds"), 1)
        ratios["in_process_wall_seconds"] = round(middle(outcomes["reglage"], "wall_seconds"), 1)
        ratios["ray_same_weights"] = all(
            here["weights"] == there["weights"]
            for here, there in zip(outcomes["reglage"], outcomes["reglage_ray"], strict=True)
        )
    return ratios


def _by_cpu_time(outcomes: dict[str, list[dict[str, Any]]], other: str) -> float:
    """Return the same ratio per second of CPU time: what a busy machine still measures."""
    ours, theirs = (middle(outcomes[name], "samples_per_cpu_second") for name in ("reglage", other))
    return round(ours / theirs, 3)


def _print_speeds(outcomes: dict[str, list[dict[str, Any]]], material: Material, threads: int) -> None:
    title = f"{material.rows} rows, {material.steps} steps of {material.phase.optimizer.batch_size}, {threads} threads"
    rows = [
        [
            NAMES[name],
            f"{middle(found, 'samples_per_second'):.1f}",
            spread(found, "samples_per_second"),
            f"{middle(found, 'wall_seconds'):.1f}",
            f"{middle(found, 'peak_megabytes'):.0f}",
            "{:.3f} ({:.3f} to {:.3f})".format(*interval(mean_correct(found))),
        ]
        for name, found in outcomes.items()
    ]
    print_table(title, ("", "samples/s", "lowest to highest", "wall s", "peak MB", "test accuracy"), rows)


def _qualities(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return accuracies, and our accuracy less each Trainer's on the same rows, with 95 % intervals."""
    correct = {name: mean_correct(found) for name, found in outcomes.items()}
    qualities: dict[str, Any] = {"accuracy": {name: interval(values) for name, values in correct.items()}}
    others = [name for name in correct if name.startswith("trainer")]
    if "reglage" in correct and others:
        gaps = {name: interval(correct["reglage"] - correct[name]) for name in others}
        qualities["accuracy_gap"] = gaps
        qualities["equal_quality"] = all(low <= 0.0 <= high for _, low, high in gaps.values())
    return qualities


def mean_correct(found: list[dict[str, Any]]) -> Float[np.ndarray, " rows"]:
    """Return for every test row the share of repetitions (seeds) that got it right."""
    return np.mean([outcome["correct"] for outcome in found], axis=0)


def interval(values: Float[np.ndarray, " rows"]) -> tuple[float, float, float]:
    """Return a mean over rows with its 95 % bootstrap interval."""
    if np.ptp(values) == 0.0:  # equal on every row: nothing to resample, and scipy would answer NaN
        return (float(values[0]),) * 3
    found = bootstrap((values,), np.mean, vectorized=True, method="percentile", random_state=0)
    low, high = found.confidence_interval
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


if __name__ == "__main__":
    main()
