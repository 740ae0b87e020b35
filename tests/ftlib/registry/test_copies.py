"""A version in another registry: the same by its digest, whole or invisible, and told where it came from."""

import json
import threading
from pathlib import Path

import pytest

import ftlib.registry.registry as registry_module
from ftlib.errors import IntegrityError, StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.registry.signing import PublicKey, Signer
from ftlib.registry.versions import Version
from ftlib.storage import LocalStore, Store
from tests.ftlib.registry.kit import FILES, Dying, child, damage, exit_code, fine, make_keys, publish, staged


@pytest.fixture
def staging(tmp_path: Path) -> ModelRegistry:
    """A registry with two versions, of which the second is the champion."""
    store = LocalStore(tmp_path / "staging")
    for n in (1, 2):
        publish(store, tmp_path, f"k{n}", {**FILES, "model.safetensors": f"weights {n}"})
    registry = ModelRegistry(store)
    registry.promote("m", "champion", 2, None, "ann", "better")
    return registry


def test_a_copy_is_the_same_version_under_a_number_of_its_own(staging: ModelRegistry, store: Store) -> None:
    production = ModelRegistry(store)
    there, created = staging.copy(staging.version("m", 2), production, "bob")
    assert (there.version, there.manifest, created) == (1, staging.version("m", 2).manifest, True)
    read = production.version("m", 1)
    origin = read.copied_from
    assert origin is not None
    assert (origin.registry, origin.version, origin.alias, origin.entry, origin.who) == (
        staging.store.uri,
        2,
        "champion",
        1,
        "bob",
    )
    assert origin.published_at == staging.version("m", 2).published_at
    path = f"models/m/manifests/{there.manifest}.json"
    assert store.read(path) == staging.store.read(path)
    assert production.verify(read) == []
    assert fsck(production, deep=True).faults == ()
    assert production.alias("m", "champion") is None  # what an alias means is each registry's own
    assert staging.copy(staging.version("m", 2), production, "eve") == (read, False)


def test_versions_that_were_published_here_are_written_as_before(staging: ModelRegistry) -> None:
    record = json.loads(staging.store.read("models/m/versions/00000001.json") or b"")
    assert "copied_from" not in record
    assert {*Version.model_fields} - {*record} == {"copied_from"}


def test_what_was_published_there_already_is_the_answer(staging: ModelRegistry, tmp_path: Path) -> None:
    production = LocalStore(tmp_path / "production")
    publish(production, tmp_path, "other", {"a": "else"})
    publish(production, tmp_path, "run", {**FILES, "model.safetensors": "weights 1"})
    there, created = staging.copy(staging.version("m", 1), ModelRegistry(production), "bob")
    assert (there.version, created, there.copied_from) == (2, False, None)


def test_signatures_go_along(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "ours")
    source, target = ModelRegistry(LocalStore(tmp_path / "a")), ModelRegistry(LocalStore(tmp_path / "b"))
    manifest, folder = staged(tmp_path / "signed", FILES)
    version, _ = source.publish(manifest, folder, "k", fine, tmp_path, Signer(private))
    there, _ = source.copy(version, target, "bob", PublicKey(public))
    assert target.verify(there, PublicKey(public)) == []
    later, later_public = make_keys(tmp_path, "theirs")
    source.publish(manifest, folder, "again", fine, tmp_path, Signer(later))
    assert source.copy(version, target, "bob") == (there, False)
    assert target.verify(there, PublicKey(later_public)) == []
    plain, _ = publish(source.store, tmp_path, "unsigned", {"a": "b"})
    with pytest.raises(IntegrityError, match="is not signed by"):
        source.copy(plain, target, "bob", PublicKey(public))
    assert target.version_numbers("m") == [1]


def test_damaged_bytes_do_not_travel(staging: ModelRegistry, store: Store) -> None:
    version = staging.version("m", 2)
    blob = next(file.blob for file in staging.manifest(version).files if file.path == "model.safetensors")
    damage(staging.store, blob)
    with pytest.raises(IntegrityError, match="its bytes were changed"):
        staging.copy(version, ModelRegistry(store), "bob")
    assert ModelRegistry(store).versions("m") == []
    damage(staging.store, f"models/m/manifests/{staging.version('m', 1).manifest}.json")
    with pytest.raises(IntegrityError, match="which is not its name"):
        staging.copy(staging.version("m", 1), ModelRegistry(store), "bob")


def test_a_copy_that_lost_a_file_is_made_whole(staging: ModelRegistry, tmp_path: Path) -> None:
    production = ModelRegistry(LocalStore(tmp_path / "production"))
    version = staging.version("m", 2)
    there, _ = staging.copy(version, production, "bob")
    production.store.discard(staging.manifest(version).files[0].blob)
    assert staging.copy(version, production, "bob") == (there, False)
    assert production.verify(there) == []


def test_into_itself_is_refused(staging: ModelRegistry) -> None:
    with pytest.raises(StorageError, match=r"m@1 is in .* already; name another registry"):
        staging.copy(staging.version("m", 1), ModelRegistry(LocalStore(Path(staging.store.uri))), "bob")


def test_two_copies_at_once_are_one_version(staging: ModelRegistry, tmp_path: Path) -> None:
    version, made = staging.version("m", 2), list[tuple[Version, bool]]()
    both = threading.Barrier(2)

    class Meeting(LocalStore):
        def create(self, path: str, data: bytes) -> bool:
            if "/versions/" in path:
                both.wait(10)
            return super().create(path, data)

    def copy() -> None:
        made.append(staging.copy(version, ModelRegistry(Meeting(tmp_path / "production")), "bob"))

    threads = [threading.Thread(target=copy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created for _, created in made) == [False, True]
    assert ModelRegistry(LocalStore(tmp_path / "production")).version_numbers("m") == [1]


def test_killed_at_any_point_nothing_or_all_of_it_is_there(staging: ModelRegistry, tmp_path: Path) -> None:
    version = staging.version("m", 2)

    def dying(folder: Path, point: int) -> None:
        registry_module.probe = lambda _: None  # its writers race, so its calls have no order
        staging.copy(version, ModelRegistry(Dying(LocalStore(folder), point)), "bob")

    for point in range(0, 100, 7):
        folder = tmp_path / f"production-{point}"
        ended = exit_code(child(lambda folder=folder, point=point: dying(folder, point)))
        production = ModelRegistry(LocalStore(folder))
        if ended == 0:
            break
        assert ended == -9
        if (folder / "registry.json").exists():
            assert production.version_numbers("m") in ([], [1])
            assert fsck(production, deep=True).faults == ()
        there, _ = staging.copy(version, production, "bob")
        assert (there.version, production.version_numbers("m")) == (1, [1])
        assert production.verify(there) == []
    assert 20 < point < 98
