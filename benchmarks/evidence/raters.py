"""How often raters of two texts agree on the better one, by how far the texts' mean ratings are apart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.evidence.points import Measured
from benchmarks.evidence.trial import ROOT


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Return the mean agreement of all pairs of each evaluation's file, and of those of each gap."""
    values: dict[str, float] = {}
    for evaluation, file in settings["files"].items():
        rows = [json.loads(line) for line in (ROOT / file).read_text("utf-8").splitlines()]
        shared = defaultdict[str, list[float]](list)
        for row in rows:
            shared[row["gap"]].append(row["agreement"])
        values[f"{evaluation}/pair_accuracy"] = mean(row["agreement"] for row in rows)
        values |= {f"{evaluation}/pair_accuracy[gap={gap}]": mean(some) for gap, some in shared.items()}
    return Measured(arms={"raters": values})
