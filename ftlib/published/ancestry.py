"""Which versions a version was made from, told by digests alone: names and paths can be wrong, bytes cannot.

A version is a parent if its weights were the start of the training, or merged into its result. The digest of a base
model's folder and that of published tensors are both known from a version's manifest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from ftlib.fingerprint import digest
from ftlib.models.adapter import FILES, found_adapter_digest
from ftlib.models.checkpoint import Base
from ftlib.registry.reading import RegistryReader
from ftlib.registry.versions import RECORDS_AT_ONCE, Manifest, Version


class Ancestry:
    """The versions of a registry with their manifests, and who was made from whom."""

    def __init__(self, manifests: Mapping[str, tuple[Version, Manifest]]) -> None:
        self.manifests = manifests
        self._of: dict[str, list[str]] = defaultdict(list)
        for name, (_, manifest) in manifests.items():
            for weights in _identities(manifest):
                self._of[weights].append(name)

    @classmethod
    def read(cls, registry: RegistryReader) -> Ancestry:
        """Read every manifest of a registry."""
        versions = [version for model in registry.models() for version in registry.versions(model)]
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            manifests = pool.map(registry.manifest, versions)
            return cls(
                {str(version): (version, manifest) for version, manifest in zip(versions, manifests, strict=True)}
            )

    def parents(self, name: str) -> list[str]:
        """Return what a version was made from; several versions of equal weights are all named."""
        version, manifest = self.manifests[name]
        parents = {parent for weights in _sources(manifest) for parent in self._of[weights]}
        return sorted(parent for parent in parents if self._came_before(parent, version))

    def ancestors(self, name: str) -> list[str]:
        """Return parents, their parents, and so on."""
        ancestors: dict[str, None] = {}
        waiting = self.parents(name)
        while waiting:
            parent = waiting.pop(0)
            if parent not in ancestors and parent != name:
                ancestors[parent] = None
                waiting += self.parents(parent)
        return list(ancestors)

    def _came_before(self, parent: str, version: Version) -> bool:
        other = self.manifests[parent][0]
        return other.name != version.name or other.version < version.version


def _identities(manifest: Manifest) -> Iterator[str]:
    """Yield the digests that a version's weights go by: of its tensors, and of its folder as a base model."""
    lineage = cast("dict[str, Any]", manifest.lineage)
    if published := (lineage.get("weights") or {}).get("published"):
        yield published
    files = {file.path: file.sha256 for file in manifest.files if "/" not in file.path}
    if manifest.base:
        if {*FILES} <= files.keys():
            stands_on = Base(**manifest.base.model_dump())
            yield found_adapter_digest(files, stands_on)
        return
    shards = sorted(path for path in files if path.endswith(".safetensors"))
    if "config.json" in files and shards:
        yield digest([[path, files[path]] for path in ("config.json", *shards)])


def _sources(manifest: Manifest) -> set[str]:
    """Return the digests of the weights that went into a version."""
    lineage = cast("dict[str, Any]", manifest.lineage)
    weights, base = lineage.get("weights") or {}, lineage.get("base_model") or {}
    below = manifest.base and manifest.base.weights
    sources = [*(weights.get("siblings") or ()), weights.get("start"), base.get("weights"), below]
    return {str(source) for source in sources if source}
