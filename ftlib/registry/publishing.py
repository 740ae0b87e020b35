"""One publication: a folder's files on their way to being a version."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftlib.errors import IntegrityError, TransientError
from ftlib.registry.reading import RegistryReader
from ftlib.registry.signing import Signer, signature_path
from ftlib.registry.transfers import Moved, download, upload
from ftlib.registry.versions import CopiedFrom, Manifest, Version, version_path
from ftlib.storage.files import local_errors
from ftlib.storage.leases import utc_now
from ftlib.storage.sealed_records import read_whole, record_bytes


@dataclass(frozen=True)
class Publication:
    """What is published, from where, and who signed it."""

    registry: RegistryReader
    manifest: Manifest
    folder: Path
    signatures: Mapping[str, bytes]
    """Envelopes of the manifest, by their paths in the registry."""
    copied_from: CopiedFrom | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """Return the paths of everything the version will need."""
        return (self.manifest.path, *self.signatures, *(file.blob for file in self.manifest.files))

    def upload(self, moved: Moved, *, again: bool = False) -> None:
        """Store what is not there yet (all blobs if `again`): blobs, the manifest, its signatures."""
        store, manifest = self.registry.store, self.manifest
        upload(store, manifest, self.folder, moved, again=again)
        canonical = manifest.canonical()
        if not store.create(manifest.path, canonical):
            stored = read_whole(store, manifest.path, lambda data: data == canonical)
            if stored != canonical:
                raise IntegrityError(f"{store.uri}/{manifest.path} has other bytes than its name says; remove it")
        for path, envelope in self.signatures.items():  # one that is there already is as good as a new one
            store.create(path, envelope)

    @contextmanager
    def read_back(self, scratch: Path, moved: Moved) -> Generator[Path]:
        """Give a fresh folder with the version as the store gives it back, every digest checked.

        A blob that lay there damaged since an earlier version is replaced from our folder, where its right bytes are.
        """
        store = self.registry.store
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            copy = Path(folder, "copy")
            with local_errors(copy):
                try:
                    download(store, self.manifest, copy, moved)
                except IntegrityError:
                    shutil.rmtree(copy)
                    self.upload(moved, again=True)
                    download(store, self.manifest, copy, moved)
            yield copy

    def commit(self, key: str, after: int) -> tuple[Version, bool]:
        """Create the first free version behind those the caller has seen, reading each one that is taken.

        Reading them all is what makes the key idempotent: a twin that committed since the caller looked is found.
        """
        store, nonce, number = self.registry.store, uuid.uuid4().hex, after
        while True:
            number += 1
            mine = Version(
                name=self.manifest.name,
                version=number,
                manifest=self.manifest.digest(),
                key=key,
                nonce=nonce,
                published_at=utc_now(),
                copied_from=self.copied_from,
            )
            if store.create(version_path(mine.name, number), record_bytes(mine)):
                return mine, True
            taken = self.registry.find(mine.name, number)
            if taken is None:
                raise TransientError(f"{store.uri} refused {mine} as taken but does not show it; run again")
            if taken.nonce == nonce:  # the reply to our own write was lost, and its retry found our own object
                return mine, True
            if taken.key == key:
                return taken, False


def signed(manifest: Manifest, signer: Signer | None) -> dict[str, bytes]:
    """Return a manifest's signature by its path in a registry; nothing without a signer."""
    if signer is None:
        return {}
    path = signature_path(manifest.name, manifest.digest(), signer.keyid)
    return {path: signer.envelope(manifest.canonical())}
