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

import tempfile
from collections.abc import Callable
from pathlib import Path

from ftlib.errors import IntegrityError, StorageError
from ftlib.registry.aliases import AliasEntry, AliasLog, Mover
from ftlib.registry.leases import lease
from ftlib.registry.publishing import Publication
from ftlib.registry.race import probe
from ftlib.registry.reading import RegistryReader
from ftlib.registry.signing import PublicKey, Signer
from ftlib.registry.transfers import download
from ftlib.registry.versions import FORMAT, Fault, Format, Manifest, Version, differences
from ftlib.storage.files import flush_folder, local_errors
from ftlib.storage.sealed_records import record_bytes
from ftlib.storage.store import Store


def _nothing() -> None:
    pass


class ModelRegistry(RegistryReader):
    """Versions in a store. Publishing and promoting only ever create; nothing is deleted or replaced."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._raced = False

    def publish(
        self,
        manifest: Manifest,
        folder: Path,
        key: str,
        check: Callable[[Path], None],
        scratch: Path,
        signer: Signer | None = None,
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
            return self._published_before(existing, Publication(self, manifest, folder, signer), check, scratch)
        publication = Publication(self, manifest, folder, signer)
        with lease(self.store, publication.objects) as renew:
            publication.upload(renew)
            with publication.read_back(scratch, renew) as copy:
                check(copy)
            renew()
            committed = publication.commit(key, after=seen[-1].version if seen else 0)
            publication.upload(renew)
        return committed

    def _published_before(
        self, version: Version, publication: Publication, check: Callable[[Path], None], scratch: Path
    ) -> tuple[Version, bool]:
        """Check a version as if it were new; what it lost since is restored, if the folder still holds its bytes."""
        if version.manifest == publication.manifest.digest():
            publication.upload(_nothing)
            with publication.read_back(scratch, _nothing) as copy:
                check(copy)
            return version, False
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            download(self.store, self.manifest(version), copy := Path(folder, "copy"), _nothing)
            check(copy)
        return version, False

    def pull(self, version: Version, target: Path, key: PublicKey | None = None) -> bool:
        """Download a version; `target` appears only whole and verified. False if it was there already.

        Raises StorageError, touching nothing, if `target` holds anything else; IntegrityError, before anything is
        downloaded, if `key` is given and did not sign it.
        """
        manifest = self.manifest(version, key)
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
                download(self.store, manifest, whole, _nothing, durable=True)
                whole.rename(target)
                flush_folder(target.parent)
        return True

    def folder_of(self, spec: str, cache: Path) -> Path:
        """Return a folder of `cache` with the version that `name@3` or `name@champion` means now; pulled once."""
        version = self.resolve(spec)
        target = cache / version.manifest
        self.pull(version, target)
        return target

    def verify(self, version: Version, key: PublicKey | None = None) -> list[Fault]:
        """Read every byte of a version again and return what is not as its manifest says.

        Raises IntegrityError if `key` is given and did not sign it.
        """
        faults: list[Fault] = []
        with tempfile.TemporaryDirectory() as scratch:
            for file in self.manifest(version, key).files:
                copy = Path(scratch, "copy")
                try:
                    self.store.get_file(file.blob, copy, file.sha256)
                except IntegrityError as error:
                    faults.append(Fault(path=file.path, problem=str(error)))
                copy.unlink(missing_ok=True)
        return faults

    def promote(self, name: str, alias: str, version: int, expected: int | None, who: str, why: str) -> AliasEntry:
        """Let an alias mean a version; one that does so already, and is not held, is left as it is.

        `expected` is the sequence number of the entry the caller decided against, None if there was none. Returns the
        entry that now says so. Raises ConflictError if the alias means another version since, naming who moved it;
        StorageError if there is no such version.
        """
        return self._move(name, alias, version, expected, who, why)

    def rollback(
        self,
        name: str,
        alias: str,
        expected: int | None,
        who: str,
        why: str,
        to: int | None = None,
        by: Mover = "person",
    ) -> AliasEntry:
        """Let an alias mean what it meant before entry `expected` (the last different version), or `to`, again.

        A person's rollback holds what promotes by rule until somebody promotes. Raises what `promote` raises, and
        StorageError if there is nothing to go back to.
        """
        self.check_format()
        version = AliasLog(self.store, name, alias).before(expected, to)
        return self._move(name, alias, version, expected, who, why, rolled_back=by)

    def _move(
        self,
        name: str,
        alias: str,
        version: int,
        expected: int | None,
        who: str,
        why: str,
        rolled_back: Mover | None = None,
    ) -> AliasEntry:
        self.version(name, version)
        self._race_once()
        return AliasLog(self.store, name, alias).move(version, expected, who, why, rolled_back)

    def _race_once(self) -> None:
        """Refuse a store that lets two writers win, before the first write that needs one winner."""
        if not self._raced:
            probe(self.store)
            self._raced = True

    def _found(self) -> None:
        """Make the registry if there is none."""
        self._race_once()
        if self.store.read("registry.json") is None:
            self.store.create("registry.json", record_bytes(Format(format=FORMAT)))
