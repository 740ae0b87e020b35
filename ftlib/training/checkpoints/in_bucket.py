"""Checkpoints of ranks that share nothing but a bucket: each writes its part to its node's disk, and a thread uploads.

    checkpoints/step-00000120-<attempt>/   rank-00000.safetensors and rank-00000.json of each rank
    checkpoints/best-00000096-<attempt>/   likewise, and a manifest.json that is created last
    checkpoints/kept-00000040-<attempt>/   likewise
    checkpoints/manifests/00000007.json    the seventh manifest of a step, created last

The step's manifests are numbered and stay, emptied where their parts were deleted: the newest is found by asking for
numbers, without a listing. A number has one manifest, whoever creates it; names have the attempt in them, so no two
attempts write the same object. They are handed on from one driver's attempt to the next (`run_place`); one behind which
another has begun creates and deletes nothing here any more.

A rank's description has the digest of every few MiB of its part. So who goes on takes a part from the node's own disk,
if it is there with its digest, and else reads from the bucket just the ranges of its own regions, and compares each:
also where there are more ranks than before, or fewer.

What cannot be written or uploaded is said in a line, and the training goes on with the checkpoint before. Weights that
early stopping or a snapshot keeps are uploaded again with the next checkpoint, and must be there in the end.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from typing_extensions import override

from ftlib.errors import IntegrityError, Interrupted, StorageError
from ftlib.models.tensor_files import read_header
from ftlib.progress import note
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.s3 import in_order
from ftlib.storage.sealed_records import parse, read_record, record_bytes
from ftlib.training.checkpoints.manifests import (
    CHUNK_BYTES,
    Chunks,
    Description,
    Manifest,
    are_right,
    chunks_of,
    is_described,
    newest_number,
    numbered,
    saved_step_in,
)
from ftlib.training.checkpoints.names import FOLDER, KEPT, best_name, description_of, kept_name, part_of, saved_step
from ftlib.training.checkpoints.parts import Parts, Piece, once, region, write_part
from ftlib.training.checkpoints.resumable import Checkpoints, Saved
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.checkpoints.writing import Writing
from ftlib.training.group import Group
from ftlib.workspace import write_durably

log = logging.getLogger(__name__)

_CHUNKS_AT_ONCE = 8
"""Of one request."""
_REQUESTS_AT_ONCE = 4
_LOOK_SECONDS = 0.5


class BucketCheckpoints(Checkpoints):
    """One rank's share of a run's checkpoints in a bucket. It is made by all ranks together."""

    def __init__(
        self,
        place: RunPlace,
        fingerprint: str,
        group: Group,
        later: Collection[str] = (),
        flush_curve: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the run's place and name. Collective, since names have the attempt in them."""
        super().__init__(place.lasting, fingerprint, group, later, flush_curve)
        self._own_place = place
        """The driver's own, which says whether another goes on."""
        self._begin_attempt()
        self._kept: dict[str, str] = {}
        """Folders of kept weights, by what they are: those that were found, and those that were begun."""
        self._owed: list[str] = []
        """Folders whose part lies on this node's disk and could not be uploaded."""
        self._number = 0
        """Of the newest manifest that this rank, the first, knows."""
        self._alive: dict[int, Manifest] = {}
        """Manifests whose parts are there."""
        self._last_problem = ""

    @override
    def keep_best(self, model: Any, step: int) -> None:
        self._kept[best_name(step)] = self._folder_of(best_name(step))
        super().keep_best(model, step)

    @override
    def keep(self, model: Any, step: int) -> None:
        self._kept[kept_name(step)] = self._folder_of(kept_name(step))
        super().keep(model, step)

    @override
    def settle(self, *, must: bool = False) -> None:
        self._last_problem = ""
        super().settle()
        if must and self._last_problem:
            self.close()
            raise StorageError(self._last_problem)

    @override
    def _not_written(self, writing: Writing, problem: str) -> None:
        """Say with all ranks what is not whole, and go on; weights that are on no disk cannot be made up for."""
        writing.abandoned.set()
        if writing.whole is not None:
            writing.whole.exception()
        folder = self._folder_of(writing.name)
        is_here = folder in self._owed or _succeeded(writing.part)
        lost = not all(self._group.gather(is_here))
        if writing is self._best:
            if lost:
                self.close()
                raise StorageError(problem)
            if folder not in self._owed:
                self._owed.append(folder)
        elif folder in self._owed:
            self._owed.remove(folder)  # the next step has all that it has
        self._last_problem = problem
        if self._group.is_first:
            step = max((one.facts["state"]["step"] for one in self._alive.values()), default=0)
            goes_on = f"a lost worker would go on from step {step}" if step else "a lost worker would begin again"
            with suppress(Interrupted):
                note("checkpoint", f"{writing.name} is not whole, and the training goes on ({goes_on}): {problem}")

    def _begin_attempt(self) -> None:
        self._attempt = str(self._group.gather(os.urandom(4).hex())[0])

    def _folder_of(self, name: str) -> str:
        return f"{name}-{self._attempt}"

    # What is written

    @override
    def _write_part(
        self,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        regions: Mapping[str, Any],
        copied: Callable[[], object] = lambda: None,
    ) -> None:
        """Write this rank's part to its own disk, then what describes it, and upload both with what is still owed."""
        copied()
        folder = self._folder / self._folder_of(name)
        path, chunks = folder / part_of(self._group.rank), Chunks()
        needed = sum(t.nbytes for t in tensors.values())
        with local_errors(folder, needed, self._place.elsewhere):
            private_folder(folder)
            sha256 = write_part(path, tensors, chunks.heard)
            if chunks.bytes % CHUNK_BYTES:
                chunks.end()
            spans = {span.name: (span.dtype, span.offset, span.bytes) for span in read_header(path).spans}
        described = Description(
            sha256=sha256, bytes=chunks.bytes, chunks=tuple(chunks.digests), regions=dict(regions), spans=spans
        )
        write_durably(folder / description_of(self._group.rank), described.model_dump_json().encode())
        self._owed.append(folder.name)
        self._upload_owed()
        self._forget_older(name)

    def _upload_owed(self) -> None:
        for folder in [*self._owed]:
            part, description = part_of(self._group.rank), description_of(self._group.rank)
            if not (self._folder / folder / part).exists():  # weights that were best, and are not any more
                self._owed.remove(folder)
                continue
            description_bytes = (self._folder / folder / description).read_bytes()
            sha256 = Description.model_validate_json(description_bytes).sha256
            self._place.upload(self._folder / folder / part, f"{FOLDER}/{folder}/{part}", sha256)
            self._place.write(f"{FOLDER}/{folder}/{description}", description_bytes)
            self._owed.remove(folder)

    def _forget_older(self, name: str) -> None:
        """Delete this rank's own parts on this node's disk, but for the newest of each sort: the bucket has them."""
        sort = name.partition("-")[0]
        folders = sorted(self._folder.glob(f"{sort}-*"), key=lambda folder: folder.stat().st_mtime)
        for folder in [] if sort == "kept" else folders[:-KEPT]:
            for file in (part_of(self._group.rank), description_of(self._group.rank)):
                (folder / file).unlink(missing_ok=True)
            with suppress(OSError):  # another rank of this node has its part there
                folder.rmdir()

    @override
    def _complete(self, writing: Writing, name: str, facts: Mapping[str, Any]) -> None:
        """Create the manifest when all ranks' parts are there, and drop what no run would resume from."""
        if writing.has_failed or self._best.has_failed:
            return
        folder = self._folder_of(name)
        manifest = self._manifest_of(writing, name, folder)
        if manifest is None:
            return
        self._check_not_superseded()
        if writing is self._best:
            self._created(f"{FOLDER}/{folder}/manifest.json", manifest)
            return
        owed = {*self._owed}
        known = {**self._kept}  # the steps go on, and add to it
        # Those of a later step wait behind this one, in the same thread.
        kept_before = {one for one in known if one.startswith("kept-") and one <= kept_name(facts["state"]["step"])}
        needed = {best_name(facts["state"]["best_step"]), *kept_before}
        kept = {one: where for one, where in known.items() if one in needed}
        if owed & {*kept.values()}:
            raise StorageError(f"weights that it promises are not in {self._place.uri} yet")
        for one, where in kept.items():
            if not self._place.has(f"{FOLDER}/{where}/manifest.json"):  # it was owed, and is uploaded since
                if not where.endswith(self._attempt):
                    raise StorageError(f"{self._place.uri}/{FOLDER}/{where}, which it promises, is gone")
                # Every rank has described the step by now, and uploads what it owed before it does.
                made = self._manifest_of(writing, one, where, wait=False)
                if made is None:
                    raise StorageError(f"{self._place.uri}/{FOLDER}/{where}, which it promises, is gone")
                self._created(f"{FOLDER}/{where}/manifest.json", made)
        self._flush_curve()  # a checkpoint of a step promises the curve up to it
        manifest = manifest.model_copy(update={"facts": {**facts}, "kept": kept})
        self._number += 1
        while not self._place.create(numbered(self._number), record_bytes(manifest, None)):
            self._number += 1  # an attempt that was given up has not heard of it
        self._alive[self._number] = manifest
        self._drop_older()

    def _check_not_superseded(self) -> None:
        if self._own_place.is_superseded:
            raise StorageError(f"{self._own_place.uri}: another attempt has begun, or is done, and writes its own")

    def _manifest_of(self, writing: Writing, name: str, folder: str, *, wait: bool = True) -> Manifest | None:
        """Wait until every rank's part is in the bucket; None where that was given up, or one is not and none waits.

        Raises StorageError where another attempt has begun, or is done: what it cleared does not come.
        """
        files: dict[str, str] = {}
        for rank in range(self._group.world_size):
            description = description_of(rank)
            while (description_bytes := self._place.read(f"{FOLDER}/{folder}/{description}")) is None:
                if not wait or writing.abandoned.is_set() or self._given_up.wait(_LOOK_SECONDS):
                    return None
                self._check_not_superseded()
            files[description] = hashlib.sha256(description_bytes).hexdigest()
        return Manifest(fingerprint=self._fingerprint, name=name, folder=folder, files=files)

    def _created(self, name: str, manifest: Manifest) -> None:
        if not self._place.create(name, record_bytes(manifest, None)):
            raise StorageError(f"{self._place.uri}/{name} is there already, with other bytes; run again")

    @override
    def _drop_older(self) -> None:
        """Empty the manifests before the newest, then delete their parts, and the best weights that none promises."""
        for number in sorted(self._alive)[:-KEPT]:
            old = self._alive.pop(number)
            gone = Manifest(fingerprint=old.fingerprint, name=old.name, folder="")
            self._place.write(numbered(number), record_bytes(gone, None))  # what is half deleted does not exist
            self._delete(old.folder, len(old.files))
            promised = {where for one in self._alive.values() for where in one.kept.values()}
            known = {**self._kept}
            best = max((name for name in known if name.startswith("best-")), default="")
            for name, where in {**old.kept, **known}.items():
                if name.startswith("best-") and where not in promised and name != best:
                    self._delete(where, len(old.files))
                    self._kept.pop(name, None)

    def _delete(self, folder: str, ranks: int) -> None:
        parts = [file for rank in range(ranks) for file in (part_of(rank), description_of(rank))]
        self._place.discard(*(f"{FOLDER}/{folder}/{file}" for file in ("manifest.json", *parts)))

    # What is read

    @override
    def _whole(self) -> Iterator[Saved]:
        self._begin_attempt()
        found = self._newest_manifests() if self._group.is_first else []
        for manifest in cast("list[Manifest]", self._group.gather(found)[0]):
            if manifest.fingerprint != self._fingerprint:
                raise IntegrityError(
                    f"{self._place.uri} belongs to run {manifest.fingerprint}, not to {self._fingerprint}; delete it "
                    "or use another --work"
                )
            self._kept = dict(manifest.kept)
            yield Saved(manifest.name, partial(self._at_hand, manifest), partial(dict, manifest.facts))
        self._kept = {}

    def _newest_manifests(self) -> list[Manifest]:
        """Return the manifests whose parts are there, the newest first."""
        self._number, found = newest_number(self._place), dict[int, Manifest]()
        for number in range(self._number, 0, -1):
            try:
                manifest = read_record(self._bucket, self._place.path(numbered(number)), Manifest)
            except IntegrityError as error:
                log.warning("checkpoint: %s; going back to the one before", error)
                continue
            if manifest is None or not manifest.folder:
                break  # those before it were deleted first
            found[number] = manifest
        self._alive = dict(sorted(found.items()))
        return [*found.values()]

    @property
    def _bucket(self) -> Any:
        return self._place.store

    @override
    def _parts_of(self, name: str, weights: Mapping[str, torch.Tensor]) -> Parts:
        if any(self._group.gather(bool(self._owed))):
            self._group.together(self._upload_owed)  # the last try: raises why they are not there
        folder = self._kept.get(name, self._folder_of(name))
        made: list[Manifest | None] = [None]
        if self._group.is_first:
            try:
                key = f"{FOLDER}/{folder}/manifest.json"
                made = [read_record(self._bucket, self._place.path(key), Manifest)]
                if made[0] is None and self._kept.get(name) == self._folder_of(name):
                    made = [self._manifest_of(Writing(name), name, folder, wait=False)]  # it was owed until now
            except IntegrityError as error:
                log.warning("%s: %s", name, error)
        manifest = cast("Manifest | None", self._group.gather(made[0])[0])
        if manifest is None or (parts := self._at_hand(manifest, weights)) is None:
            raise IntegrityError(f"{self._place.uri}/{FOLDER}/{folder}: the weights are damaged; train again")
        return parts

    def _at_hand(self, manifest: Manifest, tensors: Mapping[str, torch.Tensor]) -> Parts | None:
        """Have on this node's disk what this rank needs of a checkpoint; None, on every rank, where it is damaged."""
        if (described := self._descriptions(manifest)) is None:
            return None
        parts: list[Parts] = []
        problem: list[str] = []

        def bring() -> None:
            try:
                parts.append(self._brought(manifest, described, tensors))
            except IntegrityError as error:
                problem.append(str(error))

        self._group.together(bring)
        problems = [one for of_rank in cast("list[list[str]]", self._group.gather(problem)) for one in of_rank]
        if problems:
            self._tell_damage(manifest, problems[0])
            return None
        return parts[0]

    def _tell_damage(self, manifest: Manifest, problem: str) -> None:
        if self._group.is_first:
            log.warning("checkpoint %s is damaged (%s); going back to the one before", manifest.name, problem)

    def _descriptions(self, manifest: Manifest) -> dict[str, Description] | None:
        """Return every rank's description, each rank reading a share; None, on every rank, if one is damaged."""
        mine: dict[str, bytes | None] = {}

        def read() -> None:
            for name in sorted(manifest.files)[self._group.rank :: self._group.world_size]:
                description_bytes = self._place.read(f"{FOLDER}/{manifest.folder}/{name}")
                right = (
                    description_bytes is not None
                    and hashlib.sha256(description_bytes).hexdigest() == manifest.files[name]
                )
                mine[name] = description_bytes if right else None

        self._group.together(read)
        all_of_them = cast("list[dict[str, bytes | None]]", self._group.gather(mine))
        described: dict[str, Description] = {}
        for name, description_bytes in [pair for each in all_of_them for pair in each.items()]:
            if description_bytes is None:
                self._tell_damage(manifest, name)
                return None
            described[name] = parse(
                Description, description_bytes, f"{self._place.uri}/{FOLDER}/{manifest.folder}/{name}"
            )
        return described

    def _brought(
        self, manifest: Manifest, described: Mapping[str, Description], tensors: Mapping[str, torch.Tensor]
    ) -> Parts:
        """Return where this rank's regions can be read. Raises IntegrityError for bytes that are missing or damaged."""
        wanted = {name: region(tensor) for name, tensor in once(tensors).items()}
        brought = self._folder / manifest.folder / f"brought-{self._group.rank}"
        shutil.rmtree(brought, ignore_errors=True)
        pieces: dict[str, list[Piece]] = {}
        for name, description in sorted(described.items()):
            part = name.replace(".json", ".safetensors")
            own = self._folder / manifest.folder / part
            has = description.pieces(own)
            needed = {
                name: overlap
                for name, piece in has.items()
                if name in wanted and piece.region.whole == wanted[name].whole
                if (overlap := wanted[name].overlap(piece.region))
            }
            odd = [name for name, piece in has.items() if name in wanted and piece.region.whole != wanted[name].whole]
            if not needed and not odd:
                continue
            if not is_described(own, description):
                has = description.pieces(brought / part)
                ranges = [has[name].rows(overlap)[1:] for name, overlap in needed.items()]
                self._bring(f"{FOLDER}/{manifest.folder}/{part}", brought / part, description, ranges)
            for name in (*needed, *odd):  # who reads says what is odd about them
                pieces.setdefault(name, []).append(has[name])
        return Parts(pieces)

    def _bring(self, name: str, file: Path, description: Description, ranges: list[tuple[int, int]]) -> None:
        """Read ranges of a part into a file that has holes between them, and compare what comes, some MiB at a time."""
        chunks = {i for first, size in ranges if size for i in chunks_of(first, size)}
        runs: list[range] = []
        for i in sorted(chunks):
            if runs and runs[-1].stop == i and len(runs[-1]) < _CHUNKS_AT_ONCE:
                runs[-1] = range(runs[-1].start, i + 1)
            else:
                runs.append(range(i, i + 1))

        def read(run: range) -> tuple[int, bytes]:
            first, end = run.start * CHUNK_BYTES, min(run.stop * CHUNK_BYTES, description.bytes)
            for _ in range(2):  # the way may have harmed them, not the store
                data = self._place.read_range(name, first, end - first)
                if are_right(data, [description.chunks[i] for i in run]):
                    return first, data
            raise IntegrityError(f"{name}: other bytes than were written")

        with local_errors(file, sum(size for _, size in ranges), self._place.elsewhere):
            private_folder(file.parent)
            with file.open("wb") as stream:
                stream.truncate(description.bytes)
                for first, data in in_order(read, runs, _REQUESTS_AT_ONCE):
                    stream.seek(first)
                    stream.write(data)

    @override
    def _fill(self, parts: Parts, tensors: Mapping[str, torch.Tensor]) -> None:
        super()._fill(parts, tensors)
        for brought in self._folder.glob(f"*/brought-{self._group.rank}"):
            shutil.rmtree(brought, ignore_errors=True)


def checkpoints_at(
    place: RunPlace,
    fingerprint: str,
    group: Group,
    later: Collection[str] = (),
    flush_curve: Callable[[], None] = lambda: None,
) -> Checkpoints:
    """Return one rank's share of the checkpoints at a run's place; with all ranks, as `Checkpoints` says."""
    kind = Checkpoints if place.is_shared else BucketCheckpoints
    return kind(place, fingerprint, group, later, flush_curve)


def step_saved(place: RunPlace) -> int:
    """Return the step that a run would resume from, wherever it is; 0 if no step was saved."""
    return saved_step(place.folder) if place.is_shared else saved_step_in(place.lasting)


def _succeeded(job: Future[None] | None) -> bool:
    return job is not None and job.exception() is None
