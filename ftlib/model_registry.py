"""The registry protocol: versions that are whole or invisible, immutable, and numbered without gaps.

publish   1. find: a version with this idempotency key is the answer
          2. store blobs under their digests, those not there yet, and the manifest under its own
          3. read everything back into a fresh folder, check digests, let the caller check what it likes
          4. create versions/<n+1>: the commit. Until then nothing of the version can be seen
pull      download beside the target, check digests, rename

No object is ever changed, so a stale reader sees an older state, never a torn one; no step needs a lock, a clock or
a delete permission.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ftlib.config import Config
from ftlib.errors import IntegrityError, StorageError, TransientError
from ftlib.progress import emit
from ftlib.storage.files import local_errors
from ftlib.storage.store import Store
from ftlib.versions import (
    MANIFEST,
    Fault,
    File,
    Format,
    Manifest,
    Version,
    differences,
    manifest_path,
    model_name,
    parse,
    version_numbers,
    version_path,
    versions_path,
)

FILES_AT_ONCE = 2  # times S3Store's parts in flight: 128 MiB at most
RECORDS_AT_ONCE = 8


class ModelRegistry:
    """Versions in a store. Reading needs no write permission; publishing never deletes or replaces."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def models(self) -> list[str]:
        """Return the names that have been published. Raises StorageError if there is no registry here."""
        self._check_format()
        return [name.rstrip("/") for name in self.store.list("models") if name.endswith("/")]

    def versions(self, name: str) -> list[Version]:
        """Return a model's versions in order; empty if there are none."""
        self._check_format()
        return self._read_versions(model_name(name), version_numbers(self.store.list(versions_path(model_name(name)))))

    def find(self, name: str, number: int) -> Version | None:
        """Return a version, or None if there is none, or no registry."""
        return self._read_version(name, number)

    def version(self, name: str, number: int | None = None) -> Version:
        """Return one version, the latest if `number` is None. Raises StorageError, naming what there is."""
        self._check_format()
        if number is not None and (found := self._read_version(model_name(name), number)):
            return found
        numbers = version_numbers(self.store.list(versions_path(model_name(name))))
        if number is None and numbers and (found := self._read_version(name, numbers[-1])):
            return found
        if not numbers:
            raise StorageError(f"{self.store.uri} has no model {name!r}; it has {', '.join(self.models()) or 'none'}")
        raise StorageError(f"{self.store.uri} has no {name}@{number}; the versions are {_spans(numbers)}")

    def manifest(self, version: Version) -> Manifest:
        """Return a version's manifest. Raises IntegrityError if its bytes are not the ones that were committed."""
        path = manifest_path(version.name, version.manifest)
        data = self.store.read(path)
        if data is None:
            raise IntegrityError(f"{self.store.uri}/{path} is missing though {version} needs it; publish again")
        if (found := hashlib.sha256(data).hexdigest()) != version.manifest:
            raise IntegrityError(f"{self.store.uri}/{path} has sha256 {found[:16]}…, which is not its name")
        return parse(Manifest, data, f"{self.store.uri}/{path}")

    def publish(
        self, manifest: Manifest, folder: Path, key: str, check: Callable[[Path], None], scratch: Path
    ) -> tuple[Version, bool]:
        """Publish a folder's files, or find the version that was published with this key. True if it was made now.

        `check` gets a folder with the version as read back from the store, digests verified; if it raises, nothing
        becomes visible. Any number of processes may publish at once, be killed at any point, and publish again.
        `scratch` holds the copy meanwhile.
        """
        self._found()
        seen = self.versions(manifest.name)
        existing = next((version for version in seen if version.key == key), None)
        if existing:
            same = existing.manifest == manifest.digest()
            with self._read_back(self.manifest(existing), scratch, folder if same else None) as copy:
                check(copy)
            return existing, False
        self._upload(manifest, folder)
        with self._read_back(manifest, scratch, folder) as copy:
            check(copy)
        return self._commit(manifest, key, after=seen[-1].version if seen else 0)

    def pull(self, version: Version, target: Path) -> bool:
        """Download a version; `target` appears only whole and verified. False if it was there already.

        Raises StorageError, touching nothing, if `target` holds anything else.
        """
        manifest = self.manifest(version)
        if target.exists() and any(target.iterdir()):
            if faults := list(differences(manifest, target)):
                raise StorageError(
                    f"{target} is not empty and not {version} ({faults[0].path} {faults[0].problem}); "
                    "pull into another folder or remove this one"
                )
            return False
        with local_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
                whole = Path(scratch, "whole")
                self._download(manifest, whole)
                whole.rename(target)
        return True

    def verify(self, version: Version) -> list[Fault]:
        """Read every byte of a version again and return what is not as its manifest says."""
        faults: list[Fault] = []
        with tempfile.TemporaryDirectory() as scratch:
            for file in self.manifest(version).files:
                copy = Path(scratch, "copy")
                try:
                    self.store.get_file(file.blob, copy, file.sha256)
                except IntegrityError as error:
                    faults.append(Fault(path=file.path, problem=str(error)))
                copy.unlink(missing_ok=True)
        return faults

    def _found(self) -> None:
        """Make the registry if there is none, in a store that has shown it lets one writer win."""
        probe(self.store)
        if self.store.read("registry.json") is None:
            self.store.create("registry.json", _bytes(Format(format=1)))

    def _check_format(self) -> None:
        data = self.store.read("registry.json")
        if data is None:
            raise StorageError(f"there is no registry at {self.store.uri}; publish to it first, or name another")
        if (found := parse(Format, data, f"{self.store.uri}/registry.json").format) != 1:
            raise StorageError(f"{self.store.uri} has format {found}, this program knows 1: use a newer reglage")

    def _read_version(self, name: str, number: int) -> Version | None:
        path = version_path(name, number)
        data = self.store.read(path)
        if data is None:
            return None
        version = parse(Version, data, f"{self.store.uri}/{path}")
        if (version.name, version.version) != (name, number):
            raise IntegrityError(
                f"{self.store.uri}/{path} says it is {version}: it was copied there by hand; remove it"
            )
        return version

    def _read_versions(self, name: str, numbers: list[int]) -> list[Version]:
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            found = pool.map(lambda number: self._read_version(name, number), numbers)
        return [version for version in found if version]

    def _upload(self, manifest: Manifest, folder: Path, *, again: bool = False) -> None:
        """Store the blobs that are not there yet (or all, if `again`), and the manifest."""

        def put(file: File) -> None:
            if again or self.store.size(file.blob) != file.bytes:
                self.store.put_file(folder / file.path, file.blob, file.sha256)

        _transfer(f"upload {manifest.name}", put, manifest.files)
        if not self.store.create(manifest.path, manifest.canonical()):
            found = self.store.read(manifest.path)
            if found != manifest.canonical():
                raise IntegrityError(f"{self.store.uri}/{manifest.path} has other bytes than its name says; remove it")

    def _download(self, manifest: Manifest, folder: Path) -> None:
        def get(file: File) -> None:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.store.get_file(file.blob, target, file.sha256)
            except IntegrityError:  # perhaps only damaged on the way: once more
                self.store.get_file(file.blob, target, file.sha256)

        folder.mkdir(parents=True)
        _transfer(f"download {manifest.name}", get, manifest.files)
        (folder / MANIFEST).write_bytes(manifest.canonical())

    @contextmanager
    def _read_back(self, manifest: Manifest, scratch: Path, repair: Path | None) -> Generator[Path]:
        """Give a fresh folder with the version as the store gives it back, every digest checked.

        A blob that lay there damaged since an earlier version is replaced from `repair`, where its right bytes are.
        """
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            copy = Path(place, "copy")
            with local_errors(copy):
                try:
                    self._download(manifest, copy)
                except IntegrityError:
                    if repair is None:
                        raise
                    shutil.rmtree(copy)
                    self._upload(manifest, repair, again=True)
                    self._download(manifest, copy)
            yield copy

    def _commit(self, manifest: Manifest, key: str, after: int) -> tuple[Version, bool]:
        """Create the first free version behind those the caller has seen, reading each one that is taken.

        Reading them all is what makes the key idempotent: a twin that committed since the caller looked is found.
        """
        nonce = uuid.uuid4().hex
        number = after
        while True:
            number += 1
            mine = Version(
                name=manifest.name,
                version=number,
                manifest=manifest.digest(),
                key=key,
                nonce=nonce,
                published_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            )
            if self.store.create(version_path(manifest.name, number), _bytes(mine)):
                return mine, True
            there = self._read_version(manifest.name, number)
            if there is None:
                raise TransientError(f"{self.store.uri} refused {mine} as taken but does not show it; run again")
            if there.nonce == nonce:  # the reply to our own write was lost, and its retry found our own object
                return mine, True
            if there.key == key:
                return there, False


def probe(store: Store, writers: int = 16) -> None:
    """Let writers race to create one object. Raises StorageError unless exactly one wins and its bytes are there.

    Servers that ignore or race `If-None-Match` exist (radosgw on sqlite let 16 of 16 win); on them two publishers
    would both get the same version number.
    """
    path = f"probes/{uuid.uuid4().hex}.json"
    tokens = [json.dumps({"probe": n, "nonce": uuid.uuid4().hex}).encode() for n in range(writers)]
    together = threading.Barrier(writers)

    def create(token: bytes) -> bool:
        together.wait()
        return store.create(path, token)

    with ThreadPoolExecutor(writers) as pool:
        won = [token for token, winner in zip(tokens, pool.map(create, tokens), strict=True) if winner]
    there = store.read(path)
    store.discard(path)
    if len(won) > 1:
        raise StorageError(
            f"{store.uri} let {len(won)} of {writers} writers create the same object: it ignores or races conditional "
            "writes, and versions could be lost there; use a store that honours If-None-Match, or a folder"
        )
    # No winner at all is fine if one of us is there: its reply was lost. Another's bytes never are.
    if there not in (won or tokens):
        raise StorageError(f"{store.uri} does not give back what was just created there; use another store")


def _transfer(label: str, move: Callable[[File], None], files: tuple[File, ...]) -> None:
    """Move files, a few at once; the first failure cancels those that wait."""
    total, done = sum(file.bytes for file in files), 0
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file, _ in zip(files, pool.map(move, files), strict=True):
            done += file.bytes
            emit(label, done, total, "bytes")


def _bytes(record: Config) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _spans(numbers: Iterable[int]) -> str:
    """Write 1, 2, 3, 7 as 1-3, 7."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
