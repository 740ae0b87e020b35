"""Boxes in an image, each with a label and a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.outcomes.base import OF_ALL_ROWS, Outcomes

if TYPE_CHECKING:
    import pyarrow as pa


class TrueBox(NamedTuple):
    """What lies where; numbers are shares of the image's width and height."""

    label: str
    left: float
    top: float
    width: float
    height: float
    crowd: bool = False


class FoundBox(NamedTuple):
    """What a model says lies where."""

    label: str
    left: float
    top: float
    width: float
    height: float
    score: float


@dataclass(frozen=True, kw_only=True)
class BoxOutcomes(Outcomes):
    """A detector's answers: every query that is not held for nothing most of all. `nll` is each image's loss."""

    kind: ClassVar[BatchKind] = "boxed_images"
    shown_as = frozenset({"boxes"})
    has_distribution: ClassVar[bool] = False
    has_places: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("detr", "yolos")  # others say sigmoids, or want more than transformers

    labels: tuple[str, ...] = field(metadata=OF_ALL_ROWS)
    """The model's labels."""
    gold: tuple[tuple[TrueBox, ...], ...]
    predicted: tuple[tuple[FoundBox, ...], ...]

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        place = {name: pa.float64() for name in ("left", "top", "width", "height")}
        columns = {"gold": {"crowd": pa.bool_()}, "predicted": {"score": pa.float64()}}
        return {
            name: pa.array(
                [[box._asdict() for box in row] for row in getattr(self, name)],
                pa.list_(pa.struct({"label": pa.string(), **place, **own})),
            )
            for name, own in columns.items()
        }

    @override
    def header(self) -> dict[str, object]:
        return {"labels": self.labels}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> BoxOutcomes:
        return cls(
            **common,
            labels=tuple(header["labels"]),
            gold=tuple(tuple(TrueBox(**box) for box in row) for row in table["gold"].to_pylist()),
            predicted=tuple(tuple(FoundBox(**box) for box in row) for row in table["predicted"].to_pylist()),
        )
