"""Which tensors of two candidates hold the same bits, as far as their checkpoints' files say it without any mixing."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from ftlib.errors import IntegrityError
from ftlib.merging.batch_norm import RUNNING
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import tensor_spans
from ftlib.models.tensor_files import TensorSpan

_CHUNK = 1 << 20


class Contents:
    """What dense candidates' tensors hold; each tensor of each checkpoint is read once, when it is asked for."""

    def __init__(self) -> None:
        self._spans: dict[str, dict[str, TensorSpan]] = {}
        self._digests: dict[tuple[str, str], Hashable] = {}

    def of(self, candidate: Candidate, name: str) -> Hashable:
        """Return what a candidate's tensor of that name in the files holds: equal answers are equal bits.

        What all checkpoints of a mix hold alike, it holds as well (`ftlib.merging.engine`). Raises IntegrityError if a
        file ends too early.
        """
        parts = {self._digest(part, name) for part in self._sources(candidate)}
        measured = candidate.statistics is not None and name.endswith(RUNNING)
        return next(iter(parts)) if len(parts) == 1 and not measured else (candidate.digest(), name)

    def has(self, candidate: Candidate, name: str) -> bool:
        """Say whether the candidate's file has a tensor of that name."""
        return name in self._tensors(candidate.end)

    def _sources(self, candidate: Candidate) -> tuple[Checkpoint, ...]:
        source = None if candidate.merge is None else candidate.merge.whole_copy()
        return candidate.parts if source is None else (candidate.parts[source],)

    def _tensors(self, checkpoint: Checkpoint) -> dict[str, TensorSpan]:
        if checkpoint.weights not in self._spans:
            self._spans[checkpoint.weights] = tensor_spans(checkpoint.weights_folder)
        return self._spans[checkpoint.weights]

    def _digest(self, checkpoint: Checkpoint, name: str) -> Hashable:
        key = checkpoint.weights, name
        if key not in self._digests:
            self._digests[key] = _digest(self._tensors(checkpoint)[name])
        return self._digests[key]


def _digest(span: TensorSpan) -> Hashable:
    sha256, left = hashlib.sha256(), span.bytes
    with span.file.open("rb") as stream:
        stream.seek(span.offset)
        while left:
            data = stream.read(min(left, _CHUNK))
            if not data:
                raise IntegrityError(f"{span.file} is cut off inside tensor {span.name!r}; copy or download it again")
            sha256.update(data)
            left -= len(data)
    return span.dtype, span.shape, sha256.hexdigest()
