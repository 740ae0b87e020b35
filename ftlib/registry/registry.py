"""Publishing, pulling and promoting.

publish   1. find: a version with this idempotency key is the answer
          2. lease what will be needed; store blobs under their digests, those not there yet, and the manifest
          3. read everything back into a fresh folder, check digests, let the caller check what it likes
          4. create versions/<n+1>: the commit. Until then nothing of the version can be seen
          5. look whether all of it is still there: a collector may just have decided to delete it
pull      download beside the target, check digests, rename
copy      publish another registry's version: its manifest, so its digest, under a number of this one's own
promote   create aliases/<alias>/<n+1>, unless somebody else has
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ftlib.errors import IntegrityError, StorageError
from ftlib.registry.aliases import AliasEntry, AliasLog, Mover
from ftlib.registry.publishing import Publication, signed
from ftlib.registry.reading import RegistryReader
from ftlib.registry.signing import PublicKey, Signer
from ftlib.registry.transfers import download
from ftlib.registry.versions import FORMAT, CopiedFrom, Fault, Format, Manifest, Version, differences
from ftlib.storage.files import local_errors, take_name
from ftlib.storage.leases import lease
from ftlib.storage.race import probe
from ftlib.storage.sealed_records import record_bytes
from ftlib.storage.store import Store


def _nothing() -> None:
    pass


def _unasked(copy: Path) -> None:
    del copy


def _is_pulled(version: Version, manifest: Manifest, target: Path) -> bool:
    """Say whether a folder is a version. Raises StorageError if it holds anything else."""
    if not target.exists() or not any(target.iterdir()):
        return False
    if faults := list(differences(manifest, target)):
        raise StorageError(
            f"{target} is not empty and not {version} ({faults[0].path} {faults[0].problem}); "
            "pull into another folder or remove this one"
        )
    return True


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
        publication = Publication(self, manifest, folder, signed(manifest, signer))
        seen = self.versions(manifest.name)
        if existing := next((version for version in seen if version.key == key), None):
            return self._published_before(existing, publication, check, scratch)
        return self._committed(publication, key, seen, check, scratch)

    def copy(self, version: Version, to: ModelRegistry, who: str, key: PublicKey | None = None) -> tuple[Version, bool]:
        """Take a version to another registry: its manifest, its files and its signatures, byte for byte.

        Which version it is, its manifest's digest says; its number is the other registry's own, and so are the aliases
        there. Every byte is checked on the way and read back there; until the commit nothing of it can be seen. Returns
        the version there and whether this call made it: one of the same manifest is the answer, and is made whole again
        if files of it are gone. Raises IntegrityError for bytes that are damaged here, or if `key` did not sign it.
        """
        if to.store.identity == self.store.identity:
            raise StorageError(f"{version} is in {to.store.uri} already; name another registry to copy it to")
        manifest = self.manifest(version, key)
        to._found()
        signatures = self.signatures(version)
        if (there := to.with_manifest(version)) and to.has_whole(manifest):
            for path, envelope in signatures.items():  # it may have been signed since
                to.store.create(path, envelope)
            return there, False
        publication = Publication(to, manifest, Path(), signatures, self._origin(version, who))
        with tempfile.TemporaryDirectory() as scratch:
            download(self.store, manifest, copy := Path(scratch, "copy"), _nothing)
            publication = replace(publication, folder=copy)
            if there:
                return to._published_before(there, publication, _unasked, Path(scratch))
            identity = f"copy-{version.manifest}"  # so that of two copies at once one is made
            return to._committed(publication, identity, to.versions(version.name), _unasked, Path(scratch))

    def _origin(self, version: Version, who: str) -> CopiedFrom:
        """Say where a copy of a version comes from: the aliases that mean it now are the reason that it is copied."""
        meaning = [entry for alias in self.aliases(version.name) if (entry := self.alias(version.name, alias))]
        entry = next((entry for entry in meaning if entry.version == version.version), None)
        return CopiedFrom(
            registry=self.store.uri,
            version=version.version,
            alias=entry and entry.alias,
            entry=entry and entry.sequence,
            published_at=version.published_at,
            who=who,
        )

    def _committed(
        self,
        publication: Publication,
        key: str,
        seen: Sequence[Version],
        check: Callable[[Path], None],
        scratch: Path,
    ) -> tuple[Version, bool]:
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
        """Download a version; `target` appears only whole and verified. False if it was there, or came meanwhile.

        Raises StorageError, touching nothing, if `target` holds anything else; IntegrityError, before anything is
        downloaded, if `key` is given and did not sign it.
        """
        manifest = self.manifest(version, key)
        while True:
            with local_errors(target):
                if _is_pulled(version, manifest, target):
                    return False
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
                    whole = Path(scratch, "whole")
                    download(self.store, manifest, whole, _nothing, durable=True)
                    if take_name(whole, target):
                        return True

    def folder_of(self, spec: str, cache: Path) -> Path:
        """Return a folder of `cache` with the version that `name@3` or `name@champion` means now; pulled once."""
        version = self.resolve(spec)
        target = cache / version.manifest
        self.pull(version, target)
        with suppress(OSError):  # of a cache that this user may only read, and collects nothing from
            os.utime(target)  # what is used is not collected
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
        """Let an alias mean what it meant before the version of entry `expected` was promoted, or `to`, again.

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
        """Make the registry if there is none. Raises StorageError where a work place is."""
        self.check_apart()
        self._race_once()
        if self.store.read("registry.json") is None:
            self.store.create("registry.json", record_bytes(Format(format=FORMAT)))
