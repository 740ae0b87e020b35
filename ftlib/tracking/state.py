"""What there is to say of a run outside: its recipe, the curves of its trainings, its evaluations, its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ftlib.evaluation.measured import EvalReport
from ftlib.fingerprint import digest, identify
from ftlib.recipe.recipe import Recipe
from ftlib.tracking.flattened import flat
from ftlib.tracking.run_facts import RunFacts
from ftlib.training import curves

End: TypeAlias = Literal["", "finished", "failed", "killed"]
Record: TypeAlias = Mapping[str, float | int]
_REMEMBERED = 256
"""Bytes before the place that was read to, by which it is seen that a file was written again."""


class Curve:
    """The records of one training, read as they are appended."""

    def __init__(self, name: str, fingerprint: str, folder: Path) -> None:
        """Follow the training in a workspace's folder, which has another name until it is whole."""
        self.name, self.fingerprint = name, fingerprint
        self._folder = folder
        self._offset, self._before = 0, b""
        self.records: list[Record] = []
        self.generation = 0
        """How often records were taken back: a run that resumes drops those after its checkpoint."""
        self.written = 0.0
        """When the file was last written, in seconds since 1970."""

    def read(self) -> bool:
        """Read what was appended, or all where records were taken back; say whether there is anything new."""
        for folder in (self._folder.with_suffix(".work"), self._folder):
            try:
                with (folder / curves.FILE).open("rb") as stream:
                    stream.seek(self._offset - len(self._before))
                    again = stream.read(len(self._before)) != self._before
                    if again:
                        stream.seek(0)
                    new = stream.read()
                    self.written = (folder / curves.FILE).stat().st_mtime
            except FileNotFoundError:
                continue
            if again:
                self._offset, self._before, self.records = 0, b"", []
                self.generation += 1
            return self._take(new) or again
        return False

    def _take(self, new: bytes) -> bool:
        whole = new[: new.rfind(b"\n") + 1]  # a line that is being written is left for the next time
        self.records += [json.loads(line) for line in whole.splitlines()]
        self._offset += len(whole)
        self._before = (self._before + whole)[-_REMEMBERED:]
        return bool(whole)


@dataclass
class RunState:
    """A run as it is now."""

    recipe: Recipe
    data: dict[str, str] = field(default_factory=dict[str, str])
    """The content of each prepared dataset, by its name."""
    curves: list[Curve] = field(default_factory=list[Curve])
    reports: list[EvalReport] = field(default_factory=list[EvalReport])
    published: str = ""
    """The version, `name@number`, or why a gate refused it."""
    ended: End = ""
    facts: RunFacts | None = None
    """What the index of runs keeps of it, once it has ended."""

    @property
    def key(self) -> str:
        """Return 8 hex digits that are those of every attempt of the run, and of no other recipe or other data."""
        parts = {name: identify(getattr(self.recipe, name)) for name in type(self.recipe).model_fields}
        del parts["compute"]  # where it runs changes no result
        return digest([parts, dict(sorted(self.data.items()))])[:8]

    def parameters(self) -> dict[str, str]:
        """Return what the recipe says, by dotted path."""
        return dict(flat(self.recipe.model_dump(mode="json", exclude_unset=True), ""))

    def evaluations(self) -> list[tuple[str, str, str, float, float | None, float | None]]:
        """Return (split, `evaluation/metric`, candidate, value, low, high) of all that was measured and is defined."""
        return [
            (cell.split, f"{cell.evaluation}/{name}", cell.candidate, metric.value, metric.low, metric.high)
            for report in self.reports
            for cell in report.measured
            for name, metric in cell.metrics.items()
            if metric.value is not None
        ]
