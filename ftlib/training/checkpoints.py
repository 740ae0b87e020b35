"""What a killed run resumes from: torch's distributed checkpoints, with a manifest that says they are whole.

    <run>/checkpoints/step-00000120/   one file per rank, `.metadata`, state.json, and manifest.json written last

A folder without a manifest does not exist. The manifest names the run's fingerprint and every file's sha256, and is
checked before torch sees a byte: `.metadata` is a pickle, and `weights_only` does not cover it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from ftlib.errors import IntegrityError, StorageError, first_line
from ftlib.fingerprint import file_digest
from ftlib.storage.files import in_bytes, local_errors
from ftlib.training.ema import Average
from ftlib.training.group import Group, unwrap
from ftlib.workspace import write_durably

log = logging.getLogger(__name__)

KEPT = 2


@dataclass(frozen=True)
class State:
    """Everything a step depends on besides weights and optimiser; batches and seeds follow from `step`."""

    step: int = 0
    """Optimiser steps done."""
    best_loss: float | None = None
    """Lowest validation loss so far."""
    best_step: int = 0
    bad_evaluations: int = 0
    """Evaluations since `best_loss`."""
    plateau_factor: float = 1.0
    plateau_bad: int = 0
    stopped: bool = False
    """Early stopping ended the run."""

    def changed(self, **fields: Any) -> State:
        """Return a copy with these fields."""
        return replace(self, **fields)


def save(
    run: Path,
    fingerprint: str,
    group: Group,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    state: State,
) -> None:
    """Write a checkpoint of this step, collectively, and drop all but the newest two.

    Raises StorageError, on every rank, where a rank's part cannot be written.
    """
    folder = run / "checkpoints" / f"step-{state.step:08d}"
    if group.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    group.barrier()
    with _alone_on_purpose(), _failures(folder, "written"):
        save_sharded(_content(model, optimizer, average), checkpoint_id=folder, no_dist=group.world_size == 1)
    group.barrier()
    if group.is_first:
        (folder / "state.json").write_text(json.dumps(asdict(state)))
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        manifest = {"fingerprint": fingerprint, "step": state.step, "files": files}
        write_durably(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        for old in sorted(folder.parent.iterdir())[:-KEPT]:
            shutil.rmtree(old)
    group.barrier()


def restore(
    run: Path,
    fingerprint: str,
    group: Group,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
) -> State | None:
    """Load the newest whole checkpoint into model, optimiser and average; None if there is none.

    A damaged one is passed over for the one before. Raises IntegrityError if one belongs to another run.
    """
    newest = _newest(run / "checkpoints", fingerprint) if group.is_first else None
    found = group.gather(newest)[0]
    if found is None:
        return None
    folder = Path(str(found))
    content = _content(model, optimizer, average)
    with _alone_on_purpose(), _failures(folder, "read"):
        load_sharded(content, checkpoint_id=folder, no_dist=group.world_size == 1)
    set_state_dict(unwrap(model), optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    return State(**json.loads((folder / "state.json").read_bytes()))


def _content(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> dict[str, Any]:
    """Return what a checkpoint holds, sharded as it is; the average's tensors are the live ones, filled in place."""
    weights, moments = get_state_dict(unwrap(model), optimizer)
    return {"model": weights, "optimizer": moments, **({"average": average.tensors} if average else {})}


@contextlib.contextmanager
def _alone_on_purpose() -> Generator[None]:
    """Keep torch's warning about a missing process group away: a group of one has none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


@contextlib.contextmanager
def _failures(folder: Path, what: str) -> Generator[None]:
    """Turn torch's CheckpointException, which is no Exception and whose text is tracebacks, into one line."""
    try:
        yield
    except CheckpointException as error:
        reasons = [reason for reason, _ in error.failures.values()]
        with local_errors(folder, elsewhere="choose another --work"):
            for refused in (one for one in reasons if isinstance(one, OSError)):
                raise refused from error
        # A full disk in the middle of an archive looks like this too: torch only sees that it is too short.
        free = in_bytes(shutil.disk_usage(folder.parent).free)
        raise StorageError(
            f"{folder}: the checkpoint was not {what}: {first_line(reasons[0])}; {free} are free there: "
            "free space or choose another --work"
        ) from error


def _newest(checkpoints: Path, fingerprint: str) -> str | None:
    """Return the newest whole checkpoint of a run; damaged ones are told and passed over."""
    if not checkpoints.is_dir():
        return None
    for folder in sorted(checkpoints.iterdir(), reverse=True):
        if not (folder / "manifest.json").is_file():
            continue
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["fingerprint"] != fingerprint:
            raise IntegrityError(
                f"{folder} belongs to run {manifest['fingerprint']}, not to {fingerprint}; "
                "delete it or use another --work"
            )
        if damaged := _damaged(folder, manifest["files"]):
            log.warning("checkpoint %s is damaged (%s); going back to the one before", folder.name, damaged)
            continue
        return str(folder)
    return None


def _damaged(folder: Path, files: dict[str, str]) -> str | None:
    present = {path.name for path in folder.iterdir()} - {"manifest.json"}
    if present != set(files):
        return f"files differ: {', '.join(sorted(present ^ set(files)))}"
    return next((name for name, sha256 in files.items() if file_digest(folder / name) != sha256), None)


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a state dict as safetensors: whole or not at all. Tied tensors are written once per name."""
    write_durably(path, save_tensors({name: tensor.clone() for name, tensor in weights.items()}))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read what `write_weights` wrote."""
    return load_file(path)
