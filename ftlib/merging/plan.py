"""What a merge will do with every tensor, decided from headers alone: a misfit is found before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

from ftlib.errors import ModelError
from ftlib.extensions import kind_of
from ftlib.merging.methods import Chunk, Kernel
from ftlib.models.config_meanings import compare_configs
from ftlib.models.folder import check_model, read_config, tensor_spans
from ftlib.models.parameter_names import BATCHES_SEEN, layer_of, layers_in
from ftlib.models.tensor_files import FLOATING, TensorSpan
from ftlib.models.vocabulary import check_labels, has_vocabulary, new_tokens
from ftlib.wording import some


@dataclass(frozen=True)
class Input:
    """A model folder that takes part, under the name that messages call it."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Segment:
    """Elements `first` to `last` of a tensor: mixed, or byte copies of the input `source`."""

    first: int
    last: int
    source: int | None


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result."""

    name: str
    spans: tuple[TensorSpan, ...]
    """Where it lies in every input."""
    dtype: str
    """The result's, which is the reference's, by the format's name."""
    shape: tuple[int, ...]
    """The result's, which is the reference's."""
    segments: tuple[Segment, ...]
    """Without gaps, in order."""
    compare: bool = False
    """True for integers: copied from the reference, and said if the inputs differ; never for how many batches a
    BatchNorm has seen, which differ by nature and are read by nothing."""

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    @property
    def mixes(self) -> bool:
        """Say whether any element is computed."""
        return any(segment.source is None for segment in self.segments)


@dataclass(frozen=True)
class MergePlan:
    """A merge that fits together."""

    kernel: Kernel
    inputs: tuple[Input, ...]
    reference: int
    """The input whose layout, config and tokenizer the result has."""
    tensors: tuple[PlannedTensor, ...]
    """In the order in which the reference's files hold them."""
    layers: int = 0
    """How many layers the model has, by its tensors' names."""
    warnings: tuple[str, ...] = ()
    """What could not be checked, and what differs and may be meant."""


def plan_merge(kernel: Kernel, inputs: Sequence[Input], reference: int) -> MergePlan:
    """Decide every tensor's fate. Keys of the result are the keys of every input.

    Raises ModelError, naming the tensors or fields, for inputs that differ in keys, dtypes or shapes, whose configs
    give equal tensors another meaning, that are quantised or damaged, or that number tokens or labels differently; for
    a pattern of the method that fits no tensor. Inputs whose vocabulary has grown are fine on a straight line: rows of
    shared tokens are mixed, rows of new tokens are theta1's.
    """
    for item in inputs:
        _check_model(item)
    spans = [tensor_spans(item.folder) for item in inputs]
    _check_keys(inputs, spans, reference)
    shifted = _compare_configs(inputs, reference)
    _check_dtypes(inputs, spans)
    for item in inputs[1:]:
        check_labels(inputs[0].folder, item.folder, (inputs[0].name, item.name))
    fresh = _new_rows(kernel, inputs, spans)
    sizes = {read_config(item.folder).get("vocab_size") for item in inputs} if fresh else set[int]()
    rows = next(iter(sizes)) if len(sizes) == 1 else None
    layers = layers_in(spans[0])
    check_layers(kind_of(type(kernel)), kernel.least_layers, layers, inputs[0].name)
    tensors = [
        _planned(kernel, name, tuple(each[name] for each in spans), reference, layers, fresh, rows)
        for name in spans[reference]
    ]
    check_patterns(kernel.patterns(), inputs[reference].folder)
    said = (*shifted, *_unchecked(inputs, reference))
    return MergePlan(kernel, tuple(inputs), reference, tuple(tensors), layers, said)


def check_layers(kind: str | None, least: int, layers: int, name: str) -> None:
    """Raise ModelError if a method of that kind tells a model's layers apart and there are too few of them."""
    if layers < least:
        raise ModelError(
            f"{kind!r} gives each layer a share of its own, by its depth, and {name!r} has {layers} numbered layers "
            f"where {least} are the least: use wise_ft"
        )


def check_patterns(patterns: Sequence[str], folder: Path) -> None:
    """Raise ModelError if a pattern fits no tensor of a model folder; before training its base will do."""
    names = list(tensor_spans(folder)) if patterns else []
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = ", ".join(get_close_matches(pattern, names, n=2, cutoff=0.3)) or names[0]
            raise ModelError(f"pattern {pattern!r} fits none of the {len(names)} tensors; near it: {near}")


def _planned(
    kernel: Kernel,
    name: str,
    spans: tuple[TensorSpan, ...],
    reference: int,
    layers: int,
    fresh: frozenset[int],
    rows: int | None,
) -> PlannedTensor:
    span = spans[reference]
    whole = span.dtype not in FLOATING
    compare = whole and not name.endswith(BATCHES_SEEN)
    planned = PlannedTensor(name, spans, span.dtype, span.shape, (), compare=compare)
    source = reference if whole else kernel.source_of(Chunk(name, layers))
    # A vocabulary may have grown into rows that were there for it: of tensors outside the layers, those with its size.
    grown = len({each.shape for each in spans}) > 1 or (layer_of(name) is None and span.shape[:1] == (rows,))
    if not whole and grown:
        return replace(planned, segments=tuple(_row_segments(span.shape, spans[0].shape[0], fresh, source)))
    return replace(planned, segments=(Segment(0, planned.elements, source),))


def _row_segments(shape: tuple[int, ...], shared: int, fresh: frozenset[int], source: int | None) -> Iterator[Segment]:
    """Cut a grown vocabulary's tensor into runs of rows that are mixed and runs that are theta1's."""
    width = prod(shape[1:])
    copied = [row >= shared or row in fresh for row in range(shape[0])]
    first = 0
    for row in range(1, shape[0] + 1):
        if row == shape[0] or copied[row] != copied[first]:
            yield Segment(first * width, row * width, 1 if copied[first] else source)
            first = row


def _check_model(item: Input) -> None:
    try:
        check_model(item.folder)
    except ModelError as error:  # said under the name that the user gave it
        message, folder = str(error), str(item.folder)
        if message.startswith(f"{folder}/"):
            message = f"{item.name}{message.removeprefix(folder)}"
        elif message.startswith(folder):
            message = f"{item.name!r}{message.removeprefix(folder)}"
        raise ModelError(message) from error


def _compare_configs(inputs: Sequence[Input], reference: int) -> list[str]:
    first, *others = inputs
    warnings = [
        compare_configs(first.folder, item.folder, (first.name, item.name), inputs[reference].name) for item in others
    ]
    return [warning for each in warnings for warning in each]


def _check_keys(inputs: Sequence[Input], spans: Sequence[dict[str, TensorSpan]], reference: int) -> None:
    for item, each in zip(inputs, spans, strict=True):
        for ours, theirs, owner in ((spans[reference], each, inputs[reference]), (each, spans[reference], item)):
            if alone := sorted(ours.keys() - theirs.keys()):
                other = item if owner is inputs[reference] else inputs[reference]
                raise ModelError(
                    f"{len(alone)} tensors are only in {owner.name!r}, not in {other.name!r}: {some(alone)}; "
                    "give models of one architecture, with the same head"
                )


def _check_dtypes(inputs: Sequence[Input], spans: Sequence[dict[str, TensorSpan]]) -> None:
    for item, each in zip(inputs[1:], spans[1:], strict=True):
        for name, span in each.items():
            if span.dtype != spans[0][name].dtype:
                raise _different(name, spans[0][name], span, inputs[0], item)


def _new_rows(kernel: Kernel, inputs: Sequence[Input], spans: Sequence[dict[str, TensorSpan]]) -> frozenset[int]:
    """Return the rows of tokens that only theta1 has; all others must have one id in all inputs."""
    other = [
        (name, item, each[name])
        for item, each in zip(inputs[1:], spans[1:], strict=True)
        for name in each
        if each[name].shape != spans[0][name].shape
    ]
    for name, item, span in other:
        if not _may_have_grown(kernel, inputs, spans[0][name], span):
            raise _different(name, spans[0][name], span, inputs[0], item)
    if not other and not all(has_vocabulary(item.folder) for item in inputs):
        return frozenset()  # which `_unchecked` says
    new_ids = [new_tokens(inputs[0].folder, item.folder, (inputs[0].name, item.name)) for item in inputs[1:]]
    if any(new_ids) and not (kernel.grows and len(inputs) == 2):
        item = inputs[1 + next(i for i, new in enumerate(new_ids) if new)]
        raise ModelError(
            f"{item.name!r} has tokens that {inputs[0].name!r} has not; a vocabulary that has grown is merged on the "
            "straight line of two checkpoints only"
        )
    return new_ids[0] if new_ids else frozenset()


def _unchecked(inputs: Sequence[Input], reference: int) -> Iterator[str]:
    bare = [item.name for item in inputs if not has_vocabulary(item.folder)]
    if bare and len(bare) < len(inputs):
        without = "; the result has none either" if inputs[reference].name in bare else ""
        yield f"{', '.join(bare)} has no tokenizer: that its tokens mean the same is not checked{without}"


def _may_have_grown(kernel: Kernel, inputs: Sequence[Input], before: TensorSpan, after: TensorSpan) -> bool:
    if not kernel.grows or len(inputs) != 2 or not before.shape or before.shape[1:] != after.shape[1:]:
        return False
    sizes = [read_config(item.folder).get("vocab_size") for item in inputs]
    return sizes == [before.shape[0], after.shape[0]] and before.shape[0] < after.shape[0]


def _different(name: str, ours: TensorSpan, theirs: TensorSpan, our_input: Input, their_input: Input) -> ModelError:
    remedy = "; save one of them with the other's dtype first" if ours.shape == theirs.shape else ""
    return ModelError(
        f"tensor {name!r} is {_dtype_and_shape(ours)} in {our_input.name!r} but {_dtype_and_shape(theirs)} in "
        f"{their_input.name!r}{remedy}"
    )


def _dtype_and_shape(span: TensorSpan) -> str:
    return f"{span.dtype}[{', '.join(map(str, span.shape))}]"
