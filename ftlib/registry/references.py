"""What a registry's objects are for: everything a version needs, and everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftlib.errors import IntegrityError
from ftlib.registry.reading import RegistryReader, folders
from ftlib.registry.signing import signatures_path
from ftlib.registry.versions import is_model_name, manifest_path, numbers_in, versions_path
from ftlib.storage.store import Store

BLOBS = "blobs/sha256"


class References:
    """The objects that committed versions need, read once per version however often it is brought up to date."""

    def __init__(self, registry: RegistryReader) -> None:
        self._registry = registry
        self._versions: set[tuple[str, int]] = set()
        self.paths: set[str] = set()

    def refresh(self) -> None:
        """Add what versions committed since need.

        Raises IntegrityError for a version that cannot be read, or that lies where no model can be.
        """
        self._check_names()
        for name in self._registry.models():
            for number in self._registry.version_numbers(name):
                if (name, number) not in self._versions:
                    self._add(name, number)
                    self._versions.add((name, number))

    def _check_names(self) -> None:
        """Raise IntegrityError for versions under no model's name: what they need would be taken for garbage."""
        store = self._registry.store
        for name in folders(store, "models"):
            if not is_model_name(name) and numbers_in(store.list(versions_path(name))):
                raise IntegrityError(
                    f"{store.uri}/models/{name} holds versions, and {name!r} is no model's name: give the folder its "
                    "name again, or remove it"
                )

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
    """Yield every object that could be garbage: blobs, manifests, signatures and what probes left behind.

    What has no such name is somebody else's: consoles, disks and notebooks leave files and folders of their own.
    """
    yield from (f"probes/{name}" for name in _files(store, "probes"))
    for folder in _named(folders(store, BLOBS), "[0-9a-f]{2}"):
        yield from (f"{BLOBS}/{folder}/{name}" for name in _named(_files(store, f"{BLOBS}/{folder}"), _SHA256))
    for model in filter(is_model_name, folders(store, "models")):
        for name in _named(_files(store, f"models/{model}/manifests"), rf"{_SHA256}\.json"):
            yield manifest_path(model, name.removesuffix(".json"))
        for manifest in _named(folders(store, f"models/{model}/signatures"), _SHA256):
            folder = signatures_path(model, manifest)
            yield from (f"{folder}/{name}" for name in _named(_files(store, folder), r".+\.json"))


_SHA256 = "[0-9a-f]{64}"


def _files(store: Store, folder: str) -> list[str]:
    return [name for name in store.list(folder) if not name.endswith("/")]


def _named(names: list[str], pattern: str) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]
