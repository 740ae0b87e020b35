"""Moving an alias from Prefect: what the form asks, what the run says, and what it never does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness
from prefect.utilities.callables import parameter_schema

from flows.promote import promote, rollback
from ftlib.errors import ConflictError, StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """Three versions of one model."""
    opened = ModelRegistry(LocalStore(tmp_path / "registry"))
    for n in (1, 2, 3):
        (tmp_path / "weights").write_text(str(n))
        files = (file_of(tmp_path, "weights"),)
        manifest = Manifest(name="demo", description="", files=files, metrics={"home/accuracy": n / 8}, lineage={})
        opened.publish(manifest, tmp_path, str(n), lambda _: None, tmp_path)
    return opened


def run(flow: Flow[Any, Any], registry: ModelRegistry, **given: Any) -> Any:
    return flow("demo", **given, registry=str(registry.store.uri), return_state=True)


@pytest.mark.parametrize("flow", [promote, rollback], ids=lambda flow: flow.name)
def test_the_form_is_flat_and_every_field_is_explained(flow: Flow[Any, Any]):
    schema = parameter_schema(flow).model_dump()
    assert schema["definitions"] == {}
    fields = schema["properties"]
    assert sorted(field["position"] for field in fields.values()) == list(range(len(fields)))
    for name, field in fields.items():
        assert field["title"], name
        assert field["description"], name
        assert "default" in field or name in schema["required"], name
        assert "oneOf" not in field, name
        assert field.get("format") != "password", name
    assert fields["approve"]["default"] is False


def test_nothing_moves_without_approval_and_the_page_compares(registry: ModelRegistry):
    registry.promote("demo", "champion", 1, None, "ann", "")
    state = run(promote, registry, version=3)
    assert (state.type.value, state.name) == ("COMPLETED", "Not approved")
    assert state.message == ("nothing moved: demo@champion means version 1 (entry 1); approve to let it mean version 3")
    assert len(registry.history("demo", "champion")) == 1
    with get_client(sync_client=True) as client:
        only = ArtifactFilter(key=ArtifactFilterKey(any_=["alias-demo-champion"]))
        page = str(client.read_artifacts(artifact_filter=only)[0].data)
    assert "| home/accuracy | 0.1250 | 0.3750 |" in page


def test_promote_twice_and_roll_back(registry: ModelRegistry):
    first = run(promote, registry, version=1, approve=True, who="ann", why="the first")
    assert first.message == "demo@champion is now version 1, entry 1"
    second = run(promote, registry, version=3, approve=True)
    assert second.message == "demo@champion is now version 3 (before: version 1), entry 2"
    assert run(promote, registry, version=3, approve=True).message == "demo@champion was already version 3, entry 2"
    shown = run(rollback, registry)
    assert shown.message == "nothing moved: demo@champion means version 3 (entry 2); approve to let it mean version 1"
    back = run(rollback, registry, approve=True, who="bob", why="complaints")
    assert (
        back.message
        == "demo@champion is now version 1 (before: version 3), entry 3; no retraining promotes until a person does"
    )
    assert back.result().version == 1
    history = registry.history("demo", "champion")
    assert [(entry.version, entry.why) for entry in history] == [(1, "the first"), (3, ""), (1, "complaints")]
    assert (history[0].who, history[2].who) == ("ann", "bob")
    assert history[1].who.startswith("flow run promote-demo-champion")


def test_a_decision_that_came_too_late_fails_and_moves_nothing(registry: ModelRegistry):
    registry.promote("demo", "champion", 1, None, "ann", "")
    registry.promote("demo", "champion", 2, 1, "bob", "better")
    late = run(promote, registry, version=3, approve=True, expected=1)
    assert late.is_failed()
    assert "bob moved it to version 2" in late.message
    with pytest.raises(ConflictError):
        late.result()
    assert [entry.version for entry in registry.history("demo", "champion")] == [1, 2]
    assert run(rollback, registry, approve=True, expected=1).is_failed()


@pytest.mark.parametrize(
    ("flow", "given", "message"),
    [
        (promote, {"version": 9, "approve": True}, r"has no demo@9; the versions are 1-3"),
        (rollback, {"approve": True}, "never set"),
    ],
    ids=["no such version", "no such alias"],
)
def test_what_cannot_be_done_is_one_line(
    registry: ModelRegistry, flow: Flow[Any, Any], given: dict[str, Any], message: str
):
    state = run(flow, registry, **given)
    assert state.is_failed()
    with pytest.raises(StorageError, match=message) as error:
        state.result()
    assert "\n" not in str(error.value)
    assert registry.aliases("demo") == []
