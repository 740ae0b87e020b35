"""Encryption by the store: asked for with every write, and checked before anything that says something is written."""

import hashlib
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import ClientError

import ftlib.storage.s3 as s3_module
from ftlib.data.passes.exchange import StoredExchange
from ftlib.errors import RecipeError, StorageError
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import Place, S3Store, open_store
from ftlib.storage.encryption import KMS_KEY, asked_key, check_one_key, environment
from ftlib.storage.s3_errors import meaning
from ftlib.training.checkpoints.run_place import attempt_of
from ftlib.training.compute import Compute
from ftlib.training.plan import GroupPlan
from ftlib.workspace import overwrite
from tests.ftlib.storage.fault_proxy import Answer, Call, FaultProxy, Send

ARN = "arn:aws:kms:us-east-1:000000000000:key/3a1f2c4d-0000-4000-8000-000000000001"


class Planned(GroupPlan):
    """The least that a group of workers is told."""

    compute: Compute = Compute()

    @property
    def what(self) -> str:
        return "a test"


@pytest.fixture
def encrypted(bucket, s3_endpoint: str) -> S3Store:
    return S3Store(bucket.name, "r", s3_endpoint, deadline=5.0, kms_key=ARN)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KMS_KEY, raising=False)


def every_object(bucket) -> Iterator[tuple[str, str | None, str | None]]:
    for found in bucket.objects.all():
        facts = found.Object()
        yield found.key, facts.server_side_encryption, facts.ssekms_key_id


def test_every_object_of_a_publication_is_encrypted_with_the_key_small_and_in_parts(
    bucket, encrypted: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 2**20)
    (folder := tmp_path / "model").mkdir()
    (folder / "model.safetensors").write_bytes(bytes(6 * 2**20))
    (folder / "config.json").write_text("{}")
    files = tuple(file_of(folder, name) for name in ("config.json", "model.safetensors"))
    manifest = Manifest(name="m", description="", files=files, metrics={}, lineage={})
    ModelRegistry(encrypted).publish(manifest, folder, "k", lambda _: None, tmp_path)
    objects = [*every_object(bucket)]
    assert len(objects) >= 4  # two blobs, a manifest, a version
    assert {(kind, key) for _, kind, key in objects} == {("aws:kms", ARN)}
    assert not [name for name, *_ in objects if "/probes/" in name]


def test_the_environments_key_is_honoured_by_stores_that_name_none_and_crosses_to_workers(
    bucket, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
):
    store = S3Store(bucket.name, "r", s3_endpoint, deadline=5.0)
    assert store.create("before", b"1")
    assert environment() == {}
    monkeypatch.setenv(KMS_KEY, "alias/rows")
    assert store.create("after", b"1")
    assert {name: kind for name, kind, _ in every_object(bucket)} == {"r/before": None, "r/after": "aws:kms"}
    assert environment() == {KMS_KEY: "alias/rows"}


def test_a_place_carries_its_key_to_places_beside_it_and_to_its_store():
    place = Place.parse("s3://b/p", "http://127.0.0.1:9", ARN)
    assert place.beside("s3://other/q").kms_key == ARN
    assert getattr(open_store(place), "kms_key") == ARN  # noqa: B009


def test_a_store_that_ignores_the_key_is_refused_before_anything_is_written(bucket, s3_endpoint: str, tmp_path: Path):
    async def forgetful(call: Call, send: Send) -> Answer:
        answer = await send()
        headers = {k: v for k, v in answer.headers.items() if "server-side-encryption" not in k.lower()}
        return Answer(answer.status, headers, answer.body)

    (source := tmp_path / "rows").write_bytes(b"rows")
    with FaultProxy(s3_endpoint) as proxy:
        proxy.plan(forgetful, times=1000)
        store = S3Store(bucket.name, "r", proxy.url, deadline=5.0, kms_key=ARN)
        for write in (
            lambda: store.create("a", b"secret"),
            lambda: store.put_file(source, "b", hashlib.sha256(b"rows").hexdigest()),
        ):
            with pytest.raises(StorageError, match=r"asked for, and the store ignores what it is asked; use a store"):
                write()
    assert not [*bucket.objects.all()]


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("KMS.NotFoundException", "Key does not exist", "no such KMS key in the bucket's region"),
        ("KMS.DisabledException", "is disabled", "enable the KMS key"),
        ("AccessDenied", "not authorized to perform: kms:GenerateDataKey", "needs kms:GenerateDataKey and kms:Decrypt"),
    ],
)
def test_an_absent_disabled_or_denied_key_is_one_line_with_its_remedy(code: str, message: str, remedy: str):
    error = ClientError({"Error": {"Code": code, "Message": message}}, "PutObject")
    refused = meaning(error, "put_object s3://b/a")
    assert isinstance(refused, StorageError)
    assert remedy in str(refused)
    assert "\n" not in str(refused)


def test_two_different_keys_and_what_is_no_key_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KMS_KEY, "alias/one")
    check_one_key("alias/one")
    check_one_key(None)
    with pytest.raises(RecipeError, match="the recipe asks for 'alias/two', and REGLAGE_KMS_KEY for 'alias/one'"):
        check_one_key("alias/two")
    monkeypatch.setenv(KMS_KEY, "no key at all")
    with pytest.raises(StorageError, match="is no KMS key"):
        asked_key()


def test_two_recipes_of_one_process_write_with_their_own_keys_whichever_was_read_last(
    bucket, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both have one work place and one registry, and write in turns: stages, attempts, exchanges, versions."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "cache"))
    to = f"publish.to={{kind: s3, bucket: {bucket.name}, prefix: registry}}"
    asked = {"one": "alias/one", "two": "alias/two", "none": None}
    recipes = {
        name: load_recipe(
            "recipes/quickstart.yaml", [to, f"name={name}", *([f"encryption.kms_key={key}"] if key else [])]
        )
        for name, key in asked.items()
    }
    works = {name: recipe.work_place(f"s3://{bucket.name}/work") for name, recipe in recipes.items()}
    for name, recipe in recipes.items():
        work = deepcopy(works[name])  # as Prefect and Ray hand it on
        overwrite(work, f"runs/{name}/page", b"rows")
        plan = Planned(fingerprint="0" * 16, run=attempt_of(work, name, tmp_path), kms_key=work.place.kms_key)
        again = Planned.model_validate_json(plan.model_dump_json())
        again.place.write(name, b"1")
        again.place.lasting.below(name).write(name, b"1")
        exchange = deepcopy(StoredExchange(tmp_path, work.place, f"exchange/{name}"))
        exchange.write_array("codes", np.zeros(3))
        assert recipe.registry_store().create(f"models/{name}", b"1")
    seen: dict[str, set[str | None]] = {}
    for key, _, used in every_object(bucket):
        for name in asked:
            if f"/{name}" in key:
                seen.setdefault(name, set()).add(used)
    assert seen == {name: {key} for name, key in asked.items()}
    assert KMS_KEY not in os.environ
    assert environment("alias/one") == {KMS_KEY: "alias/one"}
