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
    prompts: tuple[str, ...] | None = None
    """What it was asked, as text; None where it did not write, or the rows were not quoted (`ftlib.stages.quote`)."""
    ended: tuple[bool, ...] | None = None
    """Whether it came to an end by itself, before the most tokens that it may write; None where it did not write."""
    sampled: tuple[tuple[tuple[str, bool], ...], ...] | None = None
    """The answers that it drew for each prompt, each with whether it ended; None where it drew none."""

    def written(self) -> tuple[str, ...]:
        """Return what the model wrote. Raises DataError if it was not asked to."""
        if self.predicted is None:
            raise DataError("these outcomes hold no text that the model wrote; give the evaluation max_new_tokens")
        return self.predicted

    def said(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[bool, ...]]:
        """Return prompts, what the model wrote behind them, and whether it ended. Raises DataError as `written`."""
        return self._quoted(), self.written(), self.ended or ()

    def drawn(self) -> tuple[tuple[str, ...], tuple[tuple[tuple[str, bool], ...], ...]]:
        """Return prompts, and the answers drawn for each with whether they ended. Raises DataError for none."""
        if self.sampled is None:
            raise DataError("these outcomes hold no drawn answers; give the evaluation samples, and measure again")
        return self._quoted(), self.sampled

    def _quoted(self) -> tuple[str, ...]:
        if self.prompts is None:
            raise DataError("these outcomes hold no prompts; give the evaluation max_new_tokens, and measure again")
        return self.prompts

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        texts = {"reference": self.references, "predicted": self.predicted, "prompt": self.prompts}
        columns = {name: pa.array(column, pa.string()) for name, column in texts.items() if column is not None}
        ended = {} if self.ended is None else {"ended": pa.array(self.ended, pa.bool_())}
        if self.sampled is not None:
            columns["sampled"] = pa.array([[text for text, _ in row] for row in self.sampled], pa.list_(pa.string()))
            flags = [[one for _, one in row] for row in self.sampled]
            columns["sampled_ended"] = pa.array(flags, pa.list_(pa.bool_()))
        return {**columns, **ended, **super().columns()}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> CompletionOutcomes:
        def column(name: str) -> tuple[Any, ...] | None:
            return tuple(table[name].to_pylist()) if name in table.column_names else None

        return cls(
            **common,
            target_bytes=table["target_bytes"].to_numpy(),
            references=tuple(table["reference"].to_pylist()),
            predicted=column("predicted"),
            prompts=column("prompt"),
            ended=column("ended"),
            sampled=_sampled(column("sampled"), column("sampled_ended")),
        )


def _sampled(
    texts: tuple[list[str], ...] | None, ended: tuple[list[bool], ...] | None
) -> tuple[tuple[tuple[str, bool], ...], ...] | None:
    if texts is None or ended is None:
        return None
    return tuple(tuple(zip(*row, strict=True)) for row in zip(texts, ended, strict=True))
