"""What a run's checkpoints and their files are called."""

from __future__ import annotations

from pathlib import Path

FOLDER = "checkpoints"
KEPT = 2
"""Checkpoints of steps: the newest."""
MANIFEST = "manifest.json"


def saved_step(run: Path) -> int:
    """Return the step that a run in a folder would resume from, going by its manifests; 0 if there is none."""
    manifests = sorted((run / FOLDER).glob(f"step-*/{MANIFEST}"))
    return number_in(manifests[-1].parent.name) if manifests else 0


def number_in(folder: str) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(folder.partition("-")[2])


def part_of(rank: int) -> str:
    """Return the name of a rank's part."""
    return f"rank-{rank:05d}.safetensors"


def description_of(rank: int) -> str:
    """Return the name of what says which regions a rank's part has."""
    return f"rank-{rank:05d}.json"


def best_name(step: int) -> str:
    """Return what the weights that were best at a step are called."""
    return f"best-{step:08d}"


def kept_name(step: int) -> str:
    """Return what the weights that are kept of a step for good are called."""
    return f"kept-{step:08d}"
