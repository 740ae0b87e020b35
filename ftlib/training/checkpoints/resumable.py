"""What a killed run resumes from: each rank's part of a step, written while training goes on, and a manifest.

    <run>/checkpoints/step-00000120/   rank-00000.safetensors and rank-00000.json of each rank, state.json,
                                       and manifest.json, written last
    <run>/checkpoints/best-00000096/   the weights that early stopping may end with, likewise
    <run>/checkpoints/kept-00000040/   weights that the phase leaves beside its end, likewise

A step pays for a copy of its rank's part into the host's memory; a thread writes it, and hashes it in the same pass.
The first rank's thread waits until every rank's part is described, then writes the manifest. No thread takes part in
a collective call: the ranks meet in files.

A folder without a manifest does not exist. The manifest names the run's fingerprint and every file's sha256, and is
checked before anything is read.

This is of a folder that all ranks see; `in_bucket` has ranks that share nothing but a bucket.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, cast
from uuid import uuid4

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_optimizer_state_dict

from ftlib.errors import IntegrityError, StorageError
from ftlib.fingerprint import file_digest
from ftlib.storage.files import local_errors
from ftlib.training.checkpoints.moments import entries_of, moments_of, numbers_of, take_numbers
from ftlib.training.checkpoints.names import (
    FOLDER,
    KEPT,
    MANIFEST,
    best_name,
    description_of,
    kept_name,
    number_in,
    part_of,
)
from ftlib.training.checkpoints.parts import (
    Parts,
    once,
    own_share,
    place,
    read_parts,
    region,
    regions_as_json,
    write_part,
)
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.checkpoints.writing import Writing, done_now, problem_of
from ftlib.training.group import Group, own_part, unwrap
from ftlib.training.loops.ema import Average
from ftlib.training.memory.host_memory import spare_memory
from ftlib.workspace import write_durably

log = logging.getLogger(__name__)

_STATE = "state.json"
_LOOK_SECONDS = 0.02
_OTHERS_SECONDS = 5.0
"""How long a rank that fails waits for the others' parts of what it has begun."""


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


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint that a run may go on from."""

    name: str
    parts: Callable[[Mapping[str, torch.Tensor]], Parts | None]
    """Returns where the numbers of some tensors can be read, on this rank; None, on every rank, if they are damaged."""
    facts: Callable[[], dict[str, Any]]

    @property
    def step(self) -> int:
        """Return the step that it was written behind."""
        return number_in(self.name)


class Checkpoints:
    """One rank's share of a run's checkpoints.

    `restore` begins an attempt. All methods but `close` are collective.
    """

    def __init__(
        self,
        place: RunPlace,
        fingerprint: str,
        group: Group,
        later: Collection[str] = (),
        flush_curve: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the run's place and name; nothing is read or written yet.

        `later` are parameters that are frozen now or then and train in other steps: they are saved with what trains.
        `flush_curve` makes the curve survive, on any thread.
        """
        self._later, self._flush_curve = later, flush_curve
        self._place, self._folder, self._fingerprint, self._group = place, place.folder / FOLDER, fingerprint, group
        self._attempt = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._given_up = Event()
        self._step, self._best = Writing(), Writing()

    @property
    def is_writing(self) -> bool:
        """Say whether this rank still has work with the checkpoint that it began last."""
        return any(not job.done() for job in self._step.jobs)

    @property
    def copied_bytes(self) -> int:
        """Return what the copies take in the host's memory that checkpoints are written from."""
        return sum(copy.nbytes for writing in (self._step, self._best) for copy in writing.host.values())

    @property
    def has_failed(self) -> bool:
        """Say whether something that this rank began came to nothing: `settle` says why."""
        return self._step.has_failed or self._best.has_failed

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        state: State,
        teacher: Average | None = None,
    ) -> None:
        """Begin a checkpoint of this step, when the one before is whole; the newest two are kept.

        Raises, on every rank, StorageError where the one before could not be written.
        """
        moments = moments_of(model, optimizer)
        facts: dict[str, Any] = {"state": asdict(state), "optimizer": numbers_of(moments)}
        self._begin(self._step, f"step-{state.step:08d}", self._tensors(model, moments, average, teacher), facts)

    def keep_best(self, model: nn.Module, step: int) -> None:
        """Begin to write the weights of this step, as the model has them now: early stopping may end with them.

        Raises what `save` raises.
        """
        self._begin(self._best, best_name(step), self._weights(model), {})

    def keep(self, model: nn.Module, step: int) -> None:
        """Begin to write the weights of this step for good, as the model has them now. Raises what `save` raises."""
        self._begin(self._best, kept_name(step), self._weights(model), {})

    def restore_best(self, model: nn.Module, step: int) -> None:
        """Give the model, in place, the weights that `keep_best` kept of this step, bit for bit.

        Raises, on every rank, StorageError where they could not be written, IntegrityError where they are damaged.
        """
        self._restore_weights(model, best_name(step))

    def restore_kept(self, model: nn.Module, step: int) -> None:
        """Give the model, in place, the weights that `keep` kept of this step. Raises what `restore_best` raises."""
        self._restore_weights(model, kept_name(step))

    def _restore_weights(self, model: nn.Module, name: str) -> None:
        self.settle()
        weights = self._weights(model)
        parts = self._parts_of(name, weights)
        self._group.together(lambda: self._fill(parts, weights))

    def _parts_of(self, name: str, weights: Mapping[str, torch.Tensor]) -> Parts:
        """Return where kept weights can be read. Raises IntegrityError, on every rank, if they are damaged."""
        del weights  # all ranks see all parts
        folder = self._folder / name
        files = self._manifest(folder).get("files", {}) if self._group.is_first else {}
        files = cast("dict[str, str]", self._group.gather(files)[0])
        if problem := self._damaged(folder, files) if files else MANIFEST:
            raise IntegrityError(f"{folder}: the weights are damaged ({problem}); delete {self._folder} to train again")
        return self._described(folder, files)

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        before: Callable[[int], None] = lambda step: None,
        teacher: Average | None = None,
    ) -> State | None:
        """Load the newest whole checkpoint into model, optimiser, average and teacher; None if there is none.

        `before` is told the step that it was written behind, and sets what trained there: the optimiser has state of
        that alone.
        A damaged one is passed over for the one before. What a killed attempt left unfinished is removed. Raises, on
        every rank, IntegrityError if one belongs to another run.
        """
        self._attempt = str(self._group.gather(uuid4().hex)[0])
        for saved in self._whole():
            before(saved.step)
            moments = moments_of(model, optimizer)
            tensors = self._tensors(model, moments, average, teacher)
            if (parts := saved.parts(tensors)) is None:
                optimizer.state.clear()  # of what trained there; another step's may be of less
                continue
            self._group.together(partial(self._fill, parts, tensors))
            facts = saved.facts()
            take_numbers(moments, facts["optimizer"])
            set_optimizer_state_dict(unwrap(model), optimizer, moments)
            return State(**facts["state"])
        return None

    def _whole(self) -> Iterator[Saved]:
        """Yield what the run may go on from, the newest first, the same on all ranks."""
        newest = self._newest()
        if self._group.is_first:
            self._remove_what_is_not_before(newest[0] if newest else None)
        self._group.barrier()
        if newest is not None:
            folder, files = self._folder / newest[0], newest[1]
            yield Saved(
                newest[0],
                lambda tensors: self._described(folder, files),
                lambda: json.loads((folder / _STATE).read_bytes()),
            )

    def settle(self, *, must: bool = False) -> None:
        """Wait, with all ranks, until what was begun is whole.

        Raises StorageError, on every rank, where a rank's part or the manifest cannot be written. Of a bucket that is
        told, and raised only where it `must` be whole.
        """
        del must  # in a folder it must
        for writing in self._in_turn():
            self._settle(writing)

    def _in_turn(self) -> list[Writing]:
        """Return what was begun, in the thread's order: nothing is waited for that waits behind another."""
        return sorted((self._step, self._best), key=lambda writing: writing.turn)

    def _settle(self, writing: Writing) -> None:
        for job in (writing.part, writing.whole if self._group.is_first else writing.part):
            if job is None:
                return
            problems = [str(problem) for problem in self._group.gather(problem_of(job)) if problem]
            if problems:
                self._not_written(writing, problems[0])
                break
        writing.part = writing.whole = None

    def _not_written(self, writing: Writing, problem: str) -> None:
        """Say, with all ranks, why something is not whole. Raises StorageError."""
        del writing
        self.close()
        raise StorageError(problem)

    def close(self) -> None:
        """End the thread, alone: what was begun is whole, or does not exist. Never raises what it did."""
        for writing in self._in_turn():
            if writing.whole is not None and writing.part is not None and problem_of(writing.part) is None:
                try:
                    writing.whole.exception(timeout=_OTHERS_SECONDS)
                except TimeoutError:
                    break  # another rank's part does not come, and what was begun later waits behind it
        self._given_up.set()
        self._thread.shutdown()

    def _begin(
        self, writing: Writing, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> None:
        for earlier in self._in_turn():
            if earlier.turn <= writing.turn:
                self._settle(earlier)
        writing.name, writing.turn = name, 1 + max(self._step.turn, self._best.turn)
        writing.abandoned.clear()
        mine = own_share(once(tensors), self._group.rank, self._group.world_size)
        regions = regions_as_json({name: region(tensor) for name, tensor in mine.items()})
        parts = {name: own_part(tensor) for name, tensor in mine.items()}
        copied = self._copied(parts, writing.host)
        if copied is None:  # there is no room for a copy: the step waits
            writing.part = done_now(lambda: self._write_part(name, parts, regions))
        else:
            writing.part = self._thread.submit(self._write_part, name, writing.host, regions, copied)
        if self._group.is_first:
            writing.whole = self._thread.submit(self._complete, writing, name, facts)

    @torch.no_grad()
    def _copied(self, parts: Mapping[str, torch.Tensor], host: dict[str, torch.Tensor]) -> Callable[[], object] | None:
        """Copy tensors to the host's memory; return what waits for the copies, None if there is no room for them.

        A GPU's copies are queued before the next step's changes, and wait for nothing.
        """
        new = {name: tensor for name, tensor in parts.items() if name not in host}
        needed = sum(tensor.nbytes for tensor in new.values())
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", self._group.world_size))
        if needed and needed * neighbours > spare_memory():
            return None
        pinned = self._group.device.type == "cuda"
        for name, tensor in new.items():
            host[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        for name, tensor in parts.items():
            host[name].copy_(tensor, non_blocking=True)
        if not pinned:
            return lambda: None
        copied = torch.cuda.Event()
        copied.record()
        return copied.synchronize

    def _write_part(
        self,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        regions: Mapping[str, Any],
        copied: Callable[[], object] = lambda: None,
    ) -> None:
        copied()
        folder = self._folder / name
        with local_errors(folder, sum(t.nbytes for t in tensors.values()), elsewhere="choose another --work"):
            folder.mkdir(parents=True, exist_ok=True)
            sha256 = write_part(folder / part_of(self._group.rank), tensors)
        described = {"attempt": self._attempt, "sha256": sha256, "regions": regions}
        write_durably(folder / description_of(self._group.rank), json.dumps(described).encode())

    def _complete(self, writing: Writing, name: str, facts: Mapping[str, Any]) -> None:
        """Write the manifest when all ranks' parts are there, and drop what no run would resume from."""
        if writing.has_failed or self._best.has_failed:
            return  # this rank's own part is not there; or the best weights are not, which a checkpoint promises
        folder = self._folder / name
        files: dict[str, str] = {}
        for rank in range(self._group.world_size):
            while (sha256 := self._sha256(folder, rank)) is None:
                if self._given_up.wait(_LOOK_SECONDS):
                    return
            files |= {part_of(rank): sha256, description_of(rank): file_digest(folder / description_of(rank))}
        with local_errors(folder, elsewhere="choose another --work"):
            write_durably(folder / _STATE, json.dumps(facts).encode())
            files[_STATE] = file_digest(folder / _STATE)
            self._flush_curve()  # a checkpoint of a step promises the curve up to it
            manifest = {"fingerprint": self._fingerprint, "files": files}
            write_durably(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
            self._drop_older()

    def _sha256(self, folder: Path, rank: int) -> str | None:
        """Return the digest of a rank's part if that is written, and by this attempt."""
        try:
            described = json.loads((folder / description_of(rank)).read_bytes())
        except FileNotFoundError:
            return None
        return described["sha256"] if described["attempt"] == self._attempt else None

    def _drop_older(self) -> None:
        whole = [folder for folder in sorted(self._folder.iterdir()) if (folder / MANIFEST).exists()]
        steps = [folder for folder in whole if folder.name.startswith("step-")]
        best = [folder for folder in whole if folder.name.startswith("best-")]
        needed = {best_name(json.loads((kept / _STATE).read_bytes())["state"]["best_step"]) for kept in steps[-KEPT:]}
        for folder in (*steps[:-KEPT], *(folder for folder in best[:-1] if folder.name not in needed)):
            (folder / MANIFEST).unlink()  # what is half removed does not exist
            shutil.rmtree(folder)

    def _newest(self) -> tuple[str, dict[str, str]] | None:
        """Return the newest whole checkpoint and its files; damaged ones are told and passed over."""
        listed = self._group.gather(self._listed() if self._group.is_first else None)[0]
        if isinstance(listed, str):
            raise IntegrityError(listed)
        for name, files in cast("list[tuple[str, dict[str, str]]]", listed):
            damaged = self._damaged(self._folder / name, files)
            if not damaged:
                return name, files
            if self._group.is_first:
                log.warning("checkpoint %s is damaged (%s); going back to the one before", name, damaged)
        return None

    def _listed(self) -> list[tuple[str, dict[str, str]]] | str:
        """Return this run's checkpoints and their files, newest first; a message if one is another run's."""
        if not self._folder.is_dir():
            return []
        whole: list[tuple[str, dict[str, str]]] = []
        for folder in sorted(self._folder.glob("step-*"), reverse=True):
            if not (manifest := self._manifest(folder)):
                continue
            if manifest["fingerprint"] != self._fingerprint:
                return (
                    f"{folder} belongs to run {manifest['fingerprint']}, not to {self._fingerprint}; "
                    "delete it or use another --work"
                )
            whole.append((folder.name, manifest["files"]))
        return whole

    def _manifest(self, folder: Path) -> dict[str, Any]:
        """Return a folder's manifest; an empty one where there is none, or none that can be read."""
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            files = dict(manifest["files"])
            return {"fingerprint": str(manifest["fingerprint"]), "files": {**files, part_of(0): files[part_of(0)]}}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            log.warning("checkpoint %s is damaged (%s); going back to the one before", folder.name, MANIFEST)
            return {}

    def _damaged(self, folder: Path, files: Mapping[str, str]) -> str | None:
        """Return what is wrong with a checkpoint's files; each rank reads its share of them."""
        mine = sorted(files)[self._group.rank :: self._group.world_size]
        problem = next((problem for name in mine if (problem := _damage(folder / name, files[name]))), None)
        return next((str(problem) for problem in self._group.gather(problem) if problem), None)

    def _remove_what_is_not_before(self, found: str | None) -> None:
        """Remove what is unfinished, damaged, or newer than the checkpoint that the run goes on from."""
        step = number_in(found) if found else -1
        for folder in [*self._folder.iterdir()] if self._folder.is_dir() else []:
            number = folder.name.partition("-")[2]
            if not (folder / MANIFEST).exists() or not number.isdigit() or int(number) > step:
                shutil.rmtree(folder)

    def _weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return what training changes of a model, sharded as it is and live: frozen parameters are the start's."""
        # which also shards what FSDP2 has gathered
        state = cast("dict[str, torch.Tensor]", get_model_state_dict(unwrap(model)))
        frozen = {
            place(parameter)
            for name, parameter in unwrap(model).named_parameters()
            if not parameter.requires_grad and name not in self._later
        } - {None}
        return {f"weights/{name}": tensor for name, tensor in state.items() if place(tensor) not in frozen}

    def _tensors(
        self, model: nn.Module, moments: Mapping[str, Any], average: Average | None, teacher: Average | None
    ) -> dict[str, torch.Tensor]:
        """Return all tensors of a checkpoint by name, sharded as they are: the live ones, which are filled in place."""
        held = {name: of[key] for name, of, key in entries_of(moments) if isinstance(of[key], torch.Tensor)}
        beside = {"average": average, "teacher": teacher}
        copies = {f"{what}/{name}": tensor for what, of in beside.items() if of for name, tensor in of.tensors.items()}
        return {**self._weights(model), **held, **copies}

    def _described(self, folder: Path, files: Mapping[str, str]) -> Parts:
        paths = [folder / name for name in sorted(files) if name.endswith(".safetensors")]
        parts: list[Parts] = []

        def look() -> None:
            with local_errors(folder):
                parts.append(read_parts(paths, [path.with_suffix(".json") for path in paths]))

        self._group.together(look)
        return parts[0]

    def _fill(self, parts: Parts, tensors: Mapping[str, torch.Tensor]) -> None:
        with local_errors(self._folder):
            parts.fill(once(tensors))


def _damage(file: Path, sha256: str) -> str | None:
    try:
        return None if file_digest(file) == sha256 else file.name
    except OSError as error:
        return f"{file.name}: {error.strerror}"
