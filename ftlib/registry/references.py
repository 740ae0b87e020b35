"""What a registry's objects are for: everything a version needs, and everything else."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.errors import IntegrityError
from ftlib.registry.reading import RegistryReader, folders
from ftlib.registry.versions import manifest_path
from ftlib.storage.store import Store

BLOBS = "blobs/sha256"


class References:
    """The objects that committed versions need, read once per version however often it is brought up to date."""

    def __init__(self, registry: RegistryReader) -> None:
        self._registry = registry
        self._versions: set[tuple[str, int]] = set()
        self.paths: set[str] = set()

    def refresh(self) -> None:
        """Add what versions committed since need. Raises IntegrityError for a version that cannot be read."""
        for name in self._registry.models():
            for number in self._registry.version_numbers(name):
                if (name, number) not in self._versions:
                    self._add(name, number)
                    self._versions.add((name, number))

    def _add(self, name: str, number: int) -> None:
        version = self._registry.find(name, number)
        if version is None:
            raise IntegrityError(f"{self._registry.store.uri} lists {name}@{number} and does not show it; run again")
        manifest = self._registry.manifest(version)
        self.paths |= {manifest.path, *(file.blob for file in manifest.files)}

    def need(self, path: str) -> bool:
        """Say whether a version needs an object."""
        owner = path.split("/signatures/")
        return path in self.paths if len(owner) == 1 else f"{owner[0]}/manifests/{owner[1][:64]}.json" in self.paths


def collectable(store: Store) -> Iterator[str]:
    """Yield every object that could be garbage: blobs, manifests, signatures and what probes left behind."""
    yield from (f"probes/{name}" for name in store.list("probes"))
    for folder in folders(store, BLOBS):
        yield from (f"{BLOBS}/{folder}/{name}" for name in store.list(f"{BLOBS}/{folder}"))
    for model in folders(store, "models"):
        for name in store.list(f"models/{model}/manifests"):
            yield manifest_path(model, name.removesuffix(".json"))
        for manifest in folders(store, f"models/{model}/signatures"):
            folder = f"models/{model}/signatures/{manifest}"
            yield from (f"{folder}/{name}" for name in store.list(folder))
