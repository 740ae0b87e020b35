"""A look at live answers: what is told once, what a rule takes back, and what it leaves alone."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import State

from flows import events
from flows import monitor as module
from flows.events import DRIFT, QUALITY
from flows.monitor import monitor
from flows.pages.form_schema import form_schema
from flows.retraining import live_look
from flows.retraining.challenge import taken_back_by_rule
from ftlib.answer_log.profile import AnswerProfile
from ftlib.data.profile import profile
from ftlib.errors import RecipeError, StorageError
from ftlib.progress import Progress, listen
from ftlib.registry import ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.retraining.live_verdict import Watched, live_reasons
from ftlib.storage import LocalStore
from ftlib.workspace import Workspace
from tests.ftlib.registry.kit import fine, staged

RECIPE = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
NAME = "library-router"
LABELS = ("pandas", "torch")
SHOW = module.show


def length(rng: random.Random, longer: float = 1.0) -> int:
    return int(longer * rng.lognormvariate(5, 0.5))


class Server:
    """Prefect's server, as far as it takes events and pages."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.away = False
        self.pages: list[str] = []

    def request(self, method: str, path: str, json: list[dict[str, Any]]) -> None:
        assert (method, path) == ("POST", "/events")
        if self.away:
            raise httpx.ConnectError("refused")
        self.events += json

    def told(self) -> list[tuple[str, int]]:
        return [(event["event"], event["payload"]["version"]) for event in self.events]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()

    @contextmanager
    def client(sync_client: bool):
        yield made

    monkeypatch.setattr(events, "get_client", client)
    monkeypatch.setattr(module, "show_markdown", lambda key, text, line: made.pages.append(text))
    monkeypatch.setattr(module, "show", lambda *_: None)  # one test draws: it is most of a look's time
    return made


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """Three versions that were right on 1,800 of 2,000 rows; the champion is the second."""
    store, rng = LocalStore(tmp_path / "registry"), random.Random(0)
    opened = ModelRegistry(store)
    rows = profile(("x" * length(rng), None, ()) for _ in range(3000))
    said = AnswerProfile(rows=2000, right=1800, labels={"pandas": 1000, "torch": 1000}, confidence={90: 2000})
    for number in (1, 2, 3):
        manifest, folder = staged(tmp_path / f"version-{number}", {"a": str(number)}, NAME)
        lineage: dict[str, Any] = {
            "data": {"docstrings": {"profile": rows.model_dump(mode="json")}},
            "answers": {"in_distribution": said.model_dump(mode="json")},
        }
        whole = manifest.model_copy(update={"lineage": lineage, "metrics": {"in_distribution/accuracy": 0.9}})
        opened.publish(whole, folder, str(number), fine, tmp_path)
    opened.promote(NAME, "champion", 1, None, "ann", "first")
    opened.promote(NAME, "champion", 2, 1, "ann", "better")
    return opened


@pytest.fixture
def look(tmp_path: Path, server: Server, registry: ModelRegistry) -> Callable[..., State[Any]]:
    def once(*overrides: str, work: str = "work", **given: Any) -> State[Any]:
        fixed = [f"publish.to={{kind: folder, path: {tmp_path / 'registry'}}}", "monitor.rollback=on_quality"]
        (tmp_path / "log").mkdir(exist_ok=True)
        log = str(tmp_path / "log")
        asked = {"recipe": RECIPE, "log": log, "overrides": [*fixed, *overrides], "work": str(tmp_path / work), **given}
        return monitor.fn(**asked)

    return once


def answer(tmp_path: Path, version: int, right: float, count: int = 1500, longer: float = 1.0) -> None:
    """Let a version answer, and its labels come."""
    rng = random.Random(f"{version} {right} {longer}")
    lines: dict[str, list[str]] = {"answers": [], "labels": []}
    for i in range(count):
        request, at = f"{version}-{right}-{longer}-{i}", datetime.now(UTC).isoformat()
        said, other = rng.sample(LABELS, 2)
        asked = {"measures": {"length": length(rng, longer)}, "label": said, "probability": 0.905}
        given = {"request": request, "at": at, "name": NAME, "version": version, **asked}
        lines["answers"].append(json.dumps(given))
        truth = said if rng.random() < right else other
        lines["labels"].append(json.dumps({"request": request, "at": at, "label": truth}))
    for kind, written in lines.items():
        path = tmp_path / "log" / kind / f"{rng.random()}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(written))


def test_good_answers_are_quiet_and_nothing_is_told(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "show", SHOW)
    assert look().name == "Too few"
    answer(tmp_path, 2, 0.91)
    state = look()
    assert (state.name, server.events) == ("Quiet", [])
    assert state.message == "Quiet: no drift in 3 features; accuracy holds in 1 window"
    page = (tmp_path / "work" / "runs" / "quickstart" / "monitor.html").read_text()
    assert page.count("<svg") >= 2
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "accuracy" in server.pages[-1]


def test_drift_is_told_once_and_is_a_reason_to_train(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], registry: ModelRegistry
) -> None:
    answer(tmp_path, 2, 0.91, longer=2.0)
    assert look().name == look().name == "Drifted"
    assert server.told() == [(DRIFT, 2)]
    (event,) = server.events
    assert event["resource"]["prefect.resource.id"] == f"reglage.dataset.{NAME}"
    assert "length: PSI" in event["payload"]["message"]
    watched = Watched(NAME, "champion", registry.store.identity)
    reasons = live_reasons(Workspace(tmp_path / "work"), watched, 2, 2)
    assert next(iter(reasons.values())).startswith("live drift: length")
    assert registry.alias(NAME, "champion") == AliasLog(registry.store, NAME, "champion").read(2)


def test_a_finding_that_the_server_did_not_take_is_told_by_the_next_look_as_the_same_event(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, 2, 0.5)
    server.away = True
    with pytest.raises(httpx.ConnectError):
        look()
    server.away = False

    def killed(*_: Any) -> None:
        raise SystemExit(9)

    for step in ("go_back", "remember"):
        with monkeypatch.context() as dying:
            dying.setattr(module, step, killed)
            with pytest.raises(SystemExit):
                look("monitor.rollback=never")
    assert look("monitor.rollback=never").name == "Worse"
    assert server.told() == [(QUALITY, 2)] * 3
    assert len({event["id"] for event in server.events}) == 1
    look("monitor.rollback=never")
    assert len(server.events) == 3


def test_worse_answers_take_the_promotion_back_once_with_the_reason_in_the_history(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], registry: ModelRegistry
) -> None:
    answer(tmp_path, 2, 0.5)
    state = look()
    assert state.name == "Rolled back"
    entry = registry.history(NAME, "champion")[-1]
    assert (entry.sequence, entry.version, entry.rolled_back) == (3, 1, "rule")
    assert entry.why.startswith("monitor's rule: accuracy 0.")
    assert registry.hold(NAME, "champion") is None
    answer(tmp_path, 1, 0.4)  # what is in place now is bad too: a rule goes back once
    state = look()
    assert state.name == "Worse"
    assert "entry 3 is a rule's rollback, and a rule goes back once" in state.message
    assert len(registry.history(NAME, "champion")) == 3
    assert server.told() == [(QUALITY, 2), (QUALITY, 1)]


def test_a_page_that_cannot_be_drawn_keeps_no_rule_from_acting(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(module, "show", SHOW)
    monkeypatch.setattr(module, "live_answers_page", fault)
    answer(tmp_path, 2, 0.5)
    heard: list[Progress] = []
    with listen(heard.append):
        assert look().name == "Rolled back"
    assert registry.history(NAME, "champion")[-1].rolled_back == "rule"
    assert {sign.text for sign in heard} == {"the page of this look is missing: float division by zero"}


def test_a_distance_of_nothing_is_refused(look: Callable[..., State[Any]]) -> None:
    with pytest.raises(RecipeError, match=r"monitor\.drift\.distance: .*greater than 0"):
        look("monitor.drift.distance=0")


def test_a_version_that_a_person_puts_back_is_judged_by_what_it_answers_from_then_on(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry
) -> None:
    answer(tmp_path, 2, 0.5)
    assert look().name == "Rolled back"
    taken = taken_back_by_rule(registry.history(NAME, "champion"), 2)
    assert taken is not None
    assert taken.sequence == 3
    entry = registry.promote(NAME, "champion", 2, 3, "ann", "it was a bad hour")
    assert taken_back_by_rule(registry.history(NAME, "champion"), 2) is None
    later = datetime.fromisoformat(entry.at) + timedelta(seconds=2)
    with pytest.MonkeyPatch.context() as patch:  # the evidence of before does not count again
        moved = AliasLog(registry.store, NAME, "champion").path(4)
        path = tmp_path / "registry" / moved
        original = path.read_bytes()
        patch.setattr(live_look, "newest_entry", lambda *_: entry.model_copy(update={"at": later.isoformat()}))
        state = look()
    assert state.name != "Rolled back"
    assert state.data.quality[-1].judged == 0
    assert path.read_bytes() == original


def test_nothing_moves_if_the_recipe_s_rule_says_never(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry
) -> None:
    answer(tmp_path, 2, 0.5)
    assert look("monitor.rollback=never").name == "Worse"
    assert len(registry.history(NAME, "champion")) == 2


def test_a_newer_promotion_and_a_person_s_rollback_are_not_gone_past(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, 2, 0.5)
    go_back = module.go_back

    def meanwhile(*given: Any) -> Any:
        registry.promote(NAME, "champion", 3, 2, "ben", "newer")
        return go_back(*given)

    with monkeypatch.context() as busy:
        busy.setattr(module, "go_back", meanwhile)
        state = look()
    assert state.name == "Worse"
    assert "by entry 3 ben moved it to version 3" in state.message
    registry.rollback(NAME, "champion", 3, "ann", "not good", to=2)
    answer(tmp_path, 2, 0.45)
    state = look()
    assert (state.name, len(registry.history(NAME, "champion"))) == ("Worse", 4)
    assert "entry 4 is a person's rollback" in state.message


def test_the_first_version_has_nothing_to_go_back_to(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry
) -> None:
    registry.promote(NAME, "canary", 3, None, "ann", "first")
    answer(tmp_path, 3, 0.5)
    state = look("retrain.alias=canary")
    assert state.name == "Worse"
    assert "the alias stays" in state.message
    assert len(registry.history(NAME, "canary")) == 1


def test_a_version_that_a_person_took_away_is_not_gone_back_to(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry
) -> None:
    registry.promote(NAME, "canary", 3, None, "ann", "first")
    registry.promote(NAME, "canary", 1, 1, "ann", "newer")
    registry.rollback(NAME, "canary", 2, "ann", "not good")
    registry.promote(NAME, "canary", 3, 3, "ann", "stays")
    answer(tmp_path, 3, 0.5)
    state = look("retrain.alias=canary")
    assert state.name == "Worse"
    assert "what else it meant (1) was rolled back" in state.message
    assert len(registry.history(NAME, "canary")) == 4


def test_of_two_monitors_at_once_one_moves_the_alias(
    tmp_path: Path, look: Callable[..., State[Any]], registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, 2, 0.5)
    both, go_back = threading.Barrier(2), module.go_back

    def together(*given: Any) -> Any:
        both.wait(60)
        return go_back(*given)

    monkeypatch.setattr(module, "go_back", together)
    with ThreadPoolExecutor(2) as pool:
        names = sorted(state.name or "" for state in pool.map(lambda work: look(work=work), ("one", "two")))
    assert names == ["Rolled back", "Worse"]
    assert [entry.version for entry in registry.history(NAME, "champion")] == [1, 2, 1]


def test_an_alias_that_was_never_set_and_a_missing_log_are_told_in_a_line(
    tmp_path: Path, look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match=f"{NAME}@canary was never set"):
        look("retrain.alias=canary")
    with pytest.raises(RecipeError, match=r"monitor\.log: no log to read; give --log PLACE"):
        look(log=None)
    monkeypatch.chdir(tmp_path)
    look()  # an empty one is no error
    with pytest.raises(RecipeError, match=r"--log: elsewhere is not there \(looked in .*\); give the folder that"):
        look(log="elsewhere")
    with pytest.raises(RecipeError, match=r"--log: logs is not there \(looked in .*\); did you mean 'log'\?$"):
        look(log="logs")
    (tmp_path / "a-file").touch()
    with pytest.raises(RecipeError, match=r"--log: a-file is a file; give the folder above its answers/"):
        look(log="a-file")
    assert look("monitor.log={place: nowhere}", log=None).name == "Too few"  # it comes with the first answer
    with pytest.raises(RecipeError, match=r"monitor\.quality\.evaluation: 'fit' measures no accuracy"):
        look("monitor.quality={kind: labels, evaluation: fit}")


def test_a_schedule_that_begins_before_the_first_promotion_is_no_failure(
    look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "deployment", SimpleNamespace(id="a deployment"))
    state = look("retrain.alias=canary")
    assert (state.name, state.is_completed()) == ("Too few", True)
    assert f"has no {NAME}@canary yet" in str(state.message)
    assert look().name == "Too few"  # and one that is in place is looked at as ever


def test_a_damaged_memory_tells_once_more(tmp_path: Path, server: Server, look: Callable[..., State[Any]]) -> None:
    answer(tmp_path, 2, 0.91, longer=2.0)
    look()
    (tmp_path / "work" / "monitor" / f"{NAME}.json").write_text("{")
    look()
    assert len({event["id"] for event in server.events}) == 1


def test_every_parameter_has_a_field_that_says_what_it_is() -> None:
    fields = form_schema(monitor)["properties"]
    assert [*fields] == ["recipe", "log", "overrides", "work"]
    assert all(field.get("description") for field in fields.values())
