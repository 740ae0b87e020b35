"""When a publication of before stands for one that is asked for again."""

from pathlib import Path
from typing import ClassVar

from ftlib.fingerprint import Job
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.registry.versions import Version
from ftlib.stages.publication import publish_staged, published_before
from ftlib.storage import LocalStore
from ftlib.workspace import Workspace
from tests.ftlib.registry.kit import FILES, staged


class Stage(Job):
    stage: ClassVar[str] = "stage"
    version: ClassVar[int] = 1


def published(work: Workspace, registry: ModelRegistry) -> ModelVersion:
    """Publish as the stages do that end in a version."""
    if before := published_before(Stage(), work, registry):
        return before

    def publish(folder: Path) -> ModelVersion:
        manifest, staging = staged(folder / "staging", FILES)
        return publish_staged(Stage(), registry, manifest, staging, lambda _: 0.0, None)

    return work.once(Stage(), ModelVersion, publish)


def objects(registry: ModelRegistry, version: Version) -> list[str]:
    manifest = registry.manifest(version)
    return [manifest.path, *(file.blob for file in manifest.files)]


def test_publishing_again_restores_what_a_version_lost(tmp_path: Path) -> None:
    work, registry = Workspace(tmp_path / "work"), ModelRegistry(LocalStore(tmp_path / "registry"))
    first = published(work, registry)
    version = registry.version("m")
    assert published(work, registry) == first.model_copy(update={"created": False})
    for lost in objects(registry, version):
        registry.store.discard(lost)
        again = published(work, registry)
        assert (again.version, again.manifest, again.created) == (first.version, first.manifest, False)
        assert registry.store.size(lost) is not None
        assert registry.verify(version) == []
    assert registry.versions("m") == [version]
