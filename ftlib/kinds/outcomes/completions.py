"""A text that follows a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import DataError
from ftlib.kinds.outcomes.tokens import TokenOutcomes

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class CompletionOutcomes(TokenOutcomes):
    """A language model's answers to prompts; `nll` and `targets` are the reference completion's."""

    kind: ClassVar[BatchKind] = "completions"

    references: tuple[str, ...]
    """What should follow the prompt."""
    predicted: tuple[str, ...] | None
    """What the model wrote instead; None where it was not asked to write."""

    def written(self) -> tuple[str, ...]:
        """Return what the model wrote. Raises DataError if it was not asked to."""
        if self.predicted is None:
            raise DataError("these outcomes hold no text that the model wrote; give the evaluation max_new_tokens")
        return self.predicted

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        texts = {"reference": self.references, "predicted": self.predicted}
        columns = {name: pa.array(column, pa.string()) for name, column in texts.items() if column is not None}
        return {**columns, **super().columns()}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> CompletionOutcomes:
        predicted = tuple(table["predicted"].to_pylist()) if "predicted" in table.column_names else None
        return cls(
            **common,
            target_bytes=table["target_bytes"].to_numpy(),
            references=tuple(table["reference"].to_pylist()),
            predicted=predicted,
        )
