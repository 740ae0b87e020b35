"""A candidate as one model in memory, whatever the form of the checkpoints that it is made of."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from ftlib.config import BatchKind
from ftlib.kinds.loading import load, load_adapter
from ftlib.merging.adapter_points import write_point
from ftlib.merging.adapter_sweep import AdapterSweep, walks_by_scaling
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate


def model_of(candidate: Candidate, kind: BatchKind) -> nn.Module:
    """Return a candidate's model on the CPU: dense weights mixed in place, or adapters over their base.

    Raises ModelError for weights that do not load or do not belong together.
    """
    if candidate.end.form == "dense":
        model = load(candidate.start, kind)
        mix_into(model, candidate)
        return model
    if candidate.merge and walks_by_scaling(candidate):
        return AdapterSweep(candidate, kind).at(candidate.merge)
    source = 0 if candidate.merge is None else candidate.merge.whole_copy()
    if source is not None:
        return load(candidate.parts[source], kind)
    base = candidate.end.base
    assert base
    with TemporaryDirectory() as scratch:
        write_point(candidate, Path(scratch), base)
        return load_adapter(Path(scratch), base.folder, kind)
