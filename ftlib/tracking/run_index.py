"""The index of runs: a small file for each run that ended, `runs/<recipe>/facts/<number>-<id>.json`.

A file is written once by its run, and again only by the same run: a retraining that waited was settled. Numbers are
given under the recipe's lock, so no clock says what came after what. A work place from before there was an index has
`run.json` of each recipe's last run, which is read in its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from ftlib.recipe.evidence import Evidence
from ftlib.tracking.run_facts import RunFacts, StageTime, asked, found
from ftlib.workspace import Workspace, overwrite

FOLDER = "facts"
ARTIFACT = "runs"
"""The key of Prefect's artifact that has a work place's newest runs."""


class Indexed(NamedTuple):
    """What a work place says of its runs."""

    runs: list[RunFacts]
    """By recipe, then by number."""
    damaged: list[str]
    """Files that cannot be read, which are left out."""


def keep(work: Workspace, facts: RunFacts) -> RunFacts:
    """Write a run's facts, and return them with their number. The caller holds `runs/<recipe>`.

    A run that has facts already keeps its number.
    """
    folder = f"runs/{facts.recipe}/{FOLDER}"
    names = [name for name in work.names(folder) if name.endswith(".json")]
    end = f"-{facts.flow_run[-12:]}.json" if facts.flow_run else ""
    own = next((name for name in names if end and name.endswith(end)), "")
    name = own or f"{max(map(_number, names), default=0) + 1:06d}{end or '.json'}"
    numbered = facts.model_copy(update={"number": _number(name)})
    overwrite(work, f"{folder}/{name}", numbered.model_dump_json().encode())
    return numbered


def _number(name: str) -> int:
    digits = name.partition("-")[0].removesuffix(".json")
    return int(digits) if digits.isdecimal() else 0


def read_runs(work: Workspace) -> Indexed:
    """Read every run of a work place. Raises what the store raises; a damaged file is named and left out."""
    runs, damaged = list[RunFacts](), list[str]()
    recipes = (name.rstrip("/") for name in work.names("runs") if name.endswith("/"))
    for recipe in sorted(recipes):
        for facts in runs_of(work, recipe):
            if isinstance(facts, str):
                damaged.append(facts)
            else:
                runs.append(facts)
    return Indexed(runs, damaged)


def runs_of(work: Workspace, recipe: str) -> Iterator[RunFacts | str]:
    """Yield one recipe's runs by number, or the name of a file that cannot be read."""
    folder = f"runs/{recipe}/{FOLDER}"
    names = sorted(name for name in work.names(folder) if name.endswith(".json"))
    for name in names:
        path = work.newest(f"{folder}/{name}")
        try:
            yield RunFacts.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue  # dropped meanwhile
        except (OSError, ValidationError):
            yield f"{folder}/{name}"
    if not names:
        yield from _from_record(work, f"runs/{recipe}/run.json")


def _from_record(work: Workspace, relative: str) -> Iterator[RunFacts | str]:
    """Yield what `run.json` says of a recipe's last run, where there is one."""
    path: Path = work.newest(relative)
    try:
        record = json.loads(path.read_bytes())
        ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        yield relative
        return
    try:
        evidence = Evidence.model_validate(record["evidence"])
        result, steps = record["result"], record["steps"]
        refused = result.get("reasons")
        stages = tuple(
            StageTime(stage=one["stage"], seconds=one["work_seconds"], done_before=one["done_before"]) for one in steps
        )
        yield RunFacts(
            **asked(evidence.recipe),
            **found(evidence),
            state="published" if refused is None else "refused",
            reason="; ".join(refused or ()),
            version="" if refused is not None else f"{result['name']}@{result['version']}",
            when=ended,
            stages=stages,
            wall_seconds=record.get("wall_seconds", 0.0),
        )
    except (KeyError, TypeError, AttributeError, ValueError):  # made by another version, or by hand
        yield relative
