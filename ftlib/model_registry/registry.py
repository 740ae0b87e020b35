"""Publishing, pulling and promoting.

publish   1. find: a version with this idempotency key is the answer
          2. lease what will be needed; store blobs under their digests, those not there yet, and the manifest
          3. read everything back into a fresh folder, check digests, let the caller check what it likes
          4. create versions/<n+1>: the commit. Until then nothing of the version can be seen
          5. look whether all of it is still there: a collector may just have decided to delete it
pull      download beside the target, check digests, rename
promote   create aliases/<alias>/<n+1>, unless somebody else has
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from ftlib.errors import IntegrityError, StorageError, TransientError
from ftlib.model_registry.aliases import AliasEntry, AliasLog
from ftlib.model_registry.leases import lease, utc_now
from ftlib.model_registry.race import probe
from ftlib.model_registry.reading import RegistryReader
from ftlib.model_registry.transfers import Moved, download, upload
from ftlib.storage.files import local_errors
from ftlib.storage.store import Store
from ftlib.versions import Fault, Format, Manifest, Version, differences, record_bytes, version_path


def _nothing() -> None:
    pass


class ModelRegistry(RegistryReader):
    """Versions in a store. Publishing and promoting only ever create; nothing is deleted or replaced."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._raced = False

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
        with lease(self.store, (manifest.path, *(file.blob for file in manifest.files))) as renew:
            self._upload(manifest, folder, renew)
            with self._read_back(manifest, scratch, folder, renew) as copy:
                check(copy)
            renew()
            committed = self._commit(manifest, key, after=seen[-1].version if seen else 0)
            self._upload(manifest, folder, renew)
        return committed

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
                download(self.store, manifest, whole, _nothing)
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

    def promote(self, name: str, alias: str, version: int, expected: int | None, who: str, why: str) -> AliasEntry:
        """Let an alias mean a version; one that does so already is left as it is.

        `expected` is the sequence number of the entry the caller decided against, None if there was none. Returns the
        entry that now says so. Raises ConflictError if the alias means another version since, naming who moved it;
        StorageError if there is no such version.
        """
        self.version(name, version)
        self._race_once()
        return AliasLog(self.store, name, alias).move(version, expected, who, why)

    def rollback(
        self, name: str, alias: str, expected: int | None, who: str, why: str, to: int | None = None
    ) -> AliasEntry:
        """Let an alias mean what it meant before entry `expected` (the last different version), or `to`, again.

        Raises what `promote` raises, and StorageError if there is nothing to go back to.
        """
        self.check_format()
        return self.promote(name, alias, AliasLog(self.store, name, alias).before(expected, to), expected, who, why)

    def _race_once(self) -> None:
        """Refuse a store that lets two writers win, before the first write that needs one winner."""
        if not self._raced:
            probe(self.store)
            self._raced = True

    def _found(self) -> None:
        """Make the registry if there is none."""
        self._race_once()
        if self.store.read("registry.json") is None:
            self.store.create("registry.json", record_bytes(Format(format=1)))

    def _upload(self, manifest: Manifest, folder: Path, moved: Moved = _nothing, *, again: bool = False) -> None:
        upload(self.store, manifest, folder, moved, again=again)
        if not self.store.create(manifest.path, manifest.canonical()):
            found = self.store.read(manifest.path)
            if found != manifest.canonical():
                raise IntegrityError(f"{self.store.uri}/{manifest.path} has other bytes than its name says; remove it")

    @contextmanager
    def _read_back(
        self, manifest: Manifest, scratch: Path, repair: Path | None, moved: Moved = _nothing
    ) -> Generator[Path]:
        """Give a fresh folder with the version as the store gives it back, every digest checked.

        A blob that lay there damaged since an earlier version is replaced from `repair`, where its right bytes are.
        """
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            copy = Path(place, "copy")
            with local_errors(copy):
                try:
                    download(self.store, manifest, copy, moved)
                except IntegrityError:
                    if repair is None:
                        raise
                    shutil.rmtree(copy)
                    self._upload(manifest, repair, moved, again=True)
                    download(self.store, manifest, copy, moved)
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
                published_at=utc_now(),
            )
            if self.store.create(version_path(manifest.name, number), record_bytes(mine)):
                return mine, True
            there = self.find(manifest.name, number)
            if there is None:
                raise TransientError(f"{self.store.uri} refused {mine} as taken but does not show it; run again")
            if there.nonce == nonce:  # the reply to our own write was lost, and its retry found our own object
                return mine, True
            if there.key == key:
                return there, False
