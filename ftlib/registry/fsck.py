"""Is everything in a registry there, whole, and what its name says?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ftlib.config import Config
from ftlib.errors import IntegrityError, RecipeError
from ftlib.progress import emit
from ftlib.registry.aliases import AliasLog, aliases_path
from ftlib.registry.reading import RegistryReader, folders
from ftlib.registry.references import References, collectable
from ftlib.registry.versions import (
    RECORDS_AT_ONCE,
    Fault,
    File,
    Manifest,
    Version,
    model_name,
    numbers_in,
    spans,
    version_path,
    versions_path,
)
from ftlib.storage.leases import held_leases
from ftlib.storage.sealed_records import read_sealed

T = TypeVar("T")


class Examination(Config):
    """What was looked at and found. Only `faults` are wrong; the rest is for the collector."""

    models: int
    versions: int
    aliases: int
    blobs: int
    bytes: int
    """Of the blobs that versions need."""
    deep: bool
    faults: tuple[Fault, ...]
    unreferenced: tuple[str, ...]
    """Objects no version needs: of publishers that are at work (see `leases`), were killed, or were refused."""
    leases: tuple[str, ...]
    temporary: tuple[str, ...]


def fsck(registry: RegistryReader, *, deep: bool = False) -> Examination:
    """Check every version, manifest, blob and alias; `deep` reads every byte of every blob.

    Raises StorageError only if there is no registry; what is damaged is in the answer.
    """
    store = registry.store
    objects = list(collectable(store))  # before the versions, so that what is committed meanwhile is not called garbage
    check = _Check(registry)
    leases = tuple(held.lease.who for held in check.attempt("leases", lambda: held_leases(store)) or ())
    models = check.attempt("registry.json", lambda: _model_folders(registry)) or []
    for name in models:
        if check.attempt(f"models/{name}", lambda name=name: model_name(name)):
            check.versions_of(name)
            check.aliases_of(name)
    check.ledgers()
    check.blobs(deep=deep)
    return Examination(
        models=len(models),
        versions=len(check.found),
        aliases=check.aliases,
        blobs=len(check.files),
        bytes=sum(file.bytes for file, _ in check.files.values()),
        deep=deep,
        faults=tuple(check.faults),
        unreferenced=tuple(path for path in objects if not check.references.need(path)),
        leases=leases,
        temporary=tuple(store.leftovers(remove=False)),
    )


def _model_folders(registry: RegistryReader) -> list[str]:
    """Return what lies among the models, whatever it is called."""
    registry.check_format()
    return folders(registry.store, "models")


class _Check:
    def __init__(self, registry: RegistryReader) -> None:
        self.registry = registry
        self.faults: list[Fault] = []
        self.found: set[tuple[str, int]] = set()
        self.files: dict[str, tuple[File, Version]] = {}
        self.references = References(registry)
        self.aliases = 0

    def versions_of(self, name: str) -> None:
        numbers = self.registry.version_numbers(name)
        self._gapless(versions_path(name), numbers)
        for number in numbers:
            version = self.attempt(version_path(name, number), lambda number=number: self.registry.find(name, number))
            if version is not None:
                self.found.add((name, number))
                self._manifest(version)

    def _manifest(self, version: Version) -> None:
        path = f"models/{version.name}/manifests/{version.manifest}.json"
        self.references.paths.add(path)
        manifest = self.attempt(path, lambda: self.registry.manifest(version))
        if manifest is not None:
            self._files(manifest, version)

    def _files(self, manifest: Manifest, version: Version) -> None:
        if manifest.name != version.name:
            self.faults.append(Fault(path=manifest.path, problem=f"is of {manifest.name!r}, but {version} has it"))
        for file in manifest.files:
            self.references.paths.add(file.blob)
            self.files.setdefault(file.blob, (file, version))

    def blobs(self, *, deep: bool) -> None:
        """Look at every blob once, however many versions share it."""
        done = 0
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            entries = list(self.files.values())
            for (file, version), fault in zip(entries, pool.map(self._sized, entries), strict=True):
                if deep and fault is None:
                    fault = self._read(file)
                if fault:
                    owner = f"{version} needs it as {file.path}"
                    self.faults.append(Fault(path=file.blob, problem=f"{fault}; {owner}"))
                done += 1
                emit("fsck", done, len(self.files), "blobs")

    def _sized(self, held: tuple[File, Version]) -> str | None:
        size = self.registry.store.size(held[0].blob)
        if size is None:
            return "is missing"
        return None if size == held[0].bytes else f"has {size} bytes, recorded are {held[0].bytes}"

    def _read(self, file: File) -> str | None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                self.registry.store.get_file(file.blob, Path(scratch, "copy"), file.sha256)
            except IntegrityError:
                return "has other bytes than its name says"
        return None

    def aliases_of(self, name: str) -> None:
        for alias in folders(self.registry.store, aliases_path(name)):
            self.aliases += 1
            self.attempt(f"{aliases_path(name)}/{alias}", lambda alias=alias: self._alias(name, alias))

    def _alias(self, name: str, alias: str) -> None:
        log = AliasLog(self.registry.store, name, alias)
        self._gapless(f"{aliases_path(name)}/{alias}", log.sequences())
        previous: str | None = None
        readable = True
        for sequence in log.sequences():
            if entry := self.attempt(log.path(sequence), lambda sequence=sequence: log.read(sequence)):
                if readable and entry.previous != previous:
                    self.faults.append(Fault(path=log.path(sequence), problem="does not continue the entry before it"))
                if (name, entry.version) not in self.found:
                    self.faults.append(
                        Fault(path=log.path(sequence), problem=f"means version {entry.version}, which is not there")
                    )
            readable = entry is not None
            previous = log.digest(sequence) if readable else None

    def ledgers(self) -> None:
        """Look at the records beside the versions that say which files retrainings have considered."""
        store = self.registry.store
        for ledger in (f"ledgers/{m}/{d}" for m in folders(store, "ledgers") for d in folders(store, f"ledgers/{m}")):
            self._gapless(ledger, numbers_in(store.list(ledger)))
            for folder in (ledger, f"{ledger}/snapshots"):
                for path in (f"{folder}/{number:08d}.json" for number in numbers_in(store.list(folder))):
                    self.attempt(path, lambda path=path: read_sealed(store, path))

    def _gapless(self, folder: str, numbers: list[int]) -> None:
        if missing := sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
            self.faults.append(Fault(path=folder, problem=f"lacks {spans(missing)}"))

    def attempt(self, path: str, look: Callable[[], T]) -> T | None:
        """Look at something; damage is noted and looking goes on."""
        try:
            return look()
        except (IntegrityError, RecipeError) as error:
            self.faults.append(Fault(path=path, problem=str(error)))
            return None
