"""Deletion requests: which versions a row is in, by its id and by its key, also through what they were made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ftlib.errors import IntegrityError, RecipeError
from ftlib.fingerprint import digest
from ftlib.published.ancestry import Ancestry
from ftlib.published.row_search import Wanted, find_rows
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, Version, file_of
from ftlib.storage import LocalStore


def row(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()[:32]


def hashed(key: str, salt: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16, key=hashlib.sha256(salt.encode()).digest()).digest()


class Shop:
    """Versions that hold an index, weights of some bytes, and what they were made from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, ModelRegistry(LocalStore(folder / "registry"))

    def publish(
        self,
        name: str,
        bytes_: str,
        train: range | None,
        test: range = range(0),
        keys: dict[int, str] | None = None,
        salt: str = "",
        **lineage: Any,
    ) -> Version:
        staging = self.folder / f"{name}-{bytes_}"
        (staging / "lineage" / "mail").mkdir(parents=True)
        (staging / "model.safetensors").write_text(bytes_)
        (staging / "config.json").write_text("{}")
        splits = {split: ids for split, ids in (("train", train or range(0)), ("test", test)) if len(ids)}
        for split, ids in splits.items():
            stored = b"".join(sorted(bytes.fromhex(row(i)) for i in ids))
            (staging / f"lineage/mail/{split}.rows").write_bytes(stored)
            if keys is not None:
                stored = b"".join(sorted(hashed(keys[i], salt) for i in ids))
                (staging / f"lineage/mail/{split}.keys").write_bytes(stored)
        index = {
            "splits": {split: len(ids) for split, ids in splits.items()},
            "key": "id" if keys else None,
            "salt": salt,
        }
        data = {"mail": {} if train is None else {"index": index}}
        paths = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
        files = tuple(file_of(staging, path) for path in paths)
        facts: Any = {"data": data, **lineage}
        facts["weights"] = {"published": f"tensors of {bytes_}", **lineage.get("weights", {})}
        manifest = Manifest(name=name, description="", files=files, metrics={}, lineage=facts)
        return self.registry.publish(manifest, staging, f"{name}{bytes_}", lambda _: None, self.folder)[0]

    def found(self, *wanted: Wanted) -> list[tuple[str, str, str | None]]:
        return [(h.version, h.use, h.through) for h in find_rows(self.registry, wanted).found]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def by_id(i: int) -> Wanted:
    return Wanted(by="row", value=row(i))


def by_key(key: str) -> Wanted:
    return Wanted(by="key", value=key)


def test_a_row_is_found_where_it_trained_and_where_it_was_held_out(shop: Shop):
    shop.publish("demo", "a", range(50), range(50, 60))
    shop.publish("demo", "b", range(100), range(200, 210))
    shop.publish("other", "c", range(50, 60))
    assert shop.found(by_id(7)) == [("demo@1", "trained", None), ("demo@2", "trained", None)]
    assert shop.found(by_id(55)) == [
        ("demo@1", "evaluated (test)", None),
        ("demo@2", "trained", None),
        ("other@1", "trained", None),
    ]
    assert shop.found(by_id(99)) == [("demo@2", "trained", None)]
    assert shop.found(by_id(5000)) == []
    assert len(shop.found(by_id(7), by_id(99))) == 3


def test_a_key_is_found_under_every_salt(shop: Shop):
    people = {i: f"p{i}@example.org" for i in range(20)}
    shop.publish("demo", "a", range(10), range(10, 12), keys=people, salt="one")
    shop.publish("demo", "b", range(20), keys=people, salt="two")
    shop.publish("demo", "c", range(20))
    assert shop.found(by_key(" p3@example.org")) == [("demo@1", "trained", None), ("demo@2", "trained", None)]
    assert shop.found(by_key("p11@example.org")) == [("demo@1", "evaluated (test)", None), ("demo@2", "trained", None)]
    assert shop.found(by_key("p99@example.org")) == []
    found = find_rows(shop.registry, [by_key("p3@example.org")])
    assert (found.searched, found.without_keys) == (("demo@1", "demo@2", "demo@3"), ("demo@3",))
    assert find_rows(shop.registry, [by_id(3)]).without_keys == ()


def test_versions_without_an_index_are_named(shop: Shop):
    shop.publish("demo", "a", None)
    shop.publish("demo", "b", range(3))
    found = find_rows(shop.registry, [by_id(1)])
    assert (found.without_index, found.searched) == (("demo@1",), ("demo@2",))


def test_a_row_reaches_the_versions_made_from_one_that_it_trained(shop: Shop):
    """By the digest of a base model's folder, and of the tensors of a sibling; over two steps."""
    first = shop.publish("demo", "a", range(10), range(10, 20))
    files = {f.path: f.sha256 for f in shop.registry.manifest(first).files}
    folder = digest([[path, files[path]] for path in ("config.json", "model.safetensors")])
    shop.publish("demo", "b", range(20, 30), base_model={"weights": folder, "name": "elsewhere"})
    shop.publish("soup", "c", range(30, 40), weights={"siblings": ["tensors of b", "tensors of nobody"]})
    shop.publish("demo", "d", range(40, 50))
    ancestry = Ancestry.read(shop.registry)
    assert ancestry.parents("soup@1") == ["demo@2"]
    assert ancestry.ancestors("soup@1") == ["demo@2", "demo@1"]
    assert ancestry.ancestors("demo@1") == ancestry.ancestors("demo@3") == []
    assert shop.found(by_id(3)) == [
        ("demo@1", "trained", None),
        ("demo@2", "trained", "demo@1"),
        ("soup@1", "trained", "demo@1"),
    ]
    assert shop.found(by_id(13)) == [("demo@1", "evaluated (test)", None)]  # what was held out is not in the weights


def test_equal_weights_are_no_circle(shop: Shop):
    """A mix of alpha 0 publishes its own start again."""
    first = shop.publish("demo", "a", range(10))
    again = {"weights": {"start": "tensors of a"}, "note": {"n": 2}}
    manifest = shop.registry.manifest(first)
    twin = manifest.model_copy(
        update={
            "lineage": {**manifest.lineage, **again, "weights": {"published": "tensors of a", "start": "tensors of a"}}
        }
    )
    shop.registry.publish(twin, shop.folder / "demo-a", "twin", lambda _: None, shop.folder)
    ancestry = Ancestry.read(shop.registry)
    assert (ancestry.parents("demo@1"), ancestry.parents("demo@2")) == ([], ["demo@1"])


def test_an_index_is_read_once_however_many_versions_share_it(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    for weights in "abcd":
        shop.publish("demo", weights, range(10), range(10, 20))
    read: list[str] = []
    get = LocalStore.get_file

    def counting(self: LocalStore, path: str, target: Path, sha256: str) -> None:
        read.append(path)
        get(self, path, target, sha256)

    monkeypatch.setattr(LocalStore, "get_file", counting)
    assert len(shop.found(by_id(3))) == 4
    assert len(read) == len(set(read)) == 2


def test_a_damaged_index_is_no_answer(shop: Shop):
    version = shop.publish("demo", "a", range(10))
    file = next(f for f in shop.registry.manifest(version).files if f.path.endswith(".rows"))
    (shop.folder / "registry" / file.blob).write_bytes(bytes(file.bytes))
    with pytest.raises(IntegrityError):
        shop.found(by_id(3))


@pytest.mark.parametrize("text", ["7", "ann@example.org", row(1)[:31]])
def test_what_is_no_row_id_is_refused(shop: Shop, text: str):
    with pytest.raises(RecipeError, match=r"32 hex digits .* --key"):
        find_rows(shop.registry, [Wanted(by="row", value=text)])
