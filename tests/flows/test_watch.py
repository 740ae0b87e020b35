"""Looking at where rows come from: each change is told once, whole, and nothing is read or started."""

import json
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.utilities.callables import parameter_schema

from flows import events
from flows import watch as module
from flows.events import CHANGED
from flows.watch import Look, watch, with_overrides
from ftlib.errors import RecipeError


class Server:
    """Prefect's server, as far as it takes events; None: it is away."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.away = False
        self.page = ""

    def request(self, method: str, path: str, json: list[dict[str, Any]]) -> None:
        assert (method, path) == ("POST", "/events")
        if self.away:
            raise httpx.ConnectError("refused")
        self.events += json


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()

    @contextmanager
    def client(sync_client: bool):
        yield made

    def shown(key: str, markdown: str, description: str) -> None:
        made.page = markdown

    monkeypatch.setattr(events, "get_client", client)
    monkeypatch.setattr(module, "show_markdown", shown)
    return made


@pytest.fixture
def look(tmp_path: Path, server: Server) -> Callable[..., State[Any]]:
    def once(**given: Any) -> State[Any]:
        return watch.fn(
            **{"places": [f"tickets={tmp_path / 'drop'}"], "quiet_seconds": 0, "work": str(tmp_path), **given}
        )

    (tmp_path / "drop").mkdir()
    return once


def write(path: Path, text: str, at: int = 1) -> None:
    path.write_text(text)
    os.utime(path, (at, at))


def test_each_change_is_told_once_also_by_a_process_that_starts_anew(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]]
) -> None:
    drop = tmp_path / "drop"
    write(drop / "a.jsonl", "1")
    assert look().name == "Changed"
    assert look().name == look().name == "Nothing new"
    write(drop / "b.jsonl", "2")
    write(drop / "a.jsonl", "one", at=2)
    assert look().message == "tickets: 1 added, 1 edited"
    (drop / "a.jsonl").unlink()
    assert look().message == "tickets: 1 vanished"
    assert look().message == "nothing new"
    assert [event["event"] for event in server.events] == [CHANGED] * 3
    first, second, third = server.events
    assert first["resource"]["prefect.resource.id"] == "reglage.dataset.tickets"
    counts = {"added": 1, "edited": 1, "vanished": 0, "waiting": 0}
    assert second["payload"] == {
        "place": str(drop), **counts, "files": [str(drop / "b.jsonl"), str(drop / "a.jsonl")]
    }  # fmt: skip
    assert third["payload"]["files"] == [str(drop / "a.jsonl")]
    assert "| tickets |" in server.page


def test_a_file_that_grows_between_two_looks_waits_and_is_not_lost(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = tmp_path / "drop"
    write(drop / "whole.jsonl", "1")
    write(drop / "growing.jsonl", "1")
    write(drop / "going.jsonl", "1")

    def meanwhile(_: float) -> None:
        write(drop / "growing.jsonl", "1, 2", at=3)
        write(drop / "late.jsonl", "3", at=3)
        (drop / "going.jsonl").unlink()

    with monkeypatch.context() as busy:
        busy.setattr(time, "sleep", meanwhile)
        look()
    assert server.events[0]["payload"]["files"] == [str(drop / "whole.jsonl")]
    look()
    assert sorted(server.events[1]["payload"]["files"]) == [str(drop / "growing.jsonl"), str(drop / "late.jsonl")]
    assert look().name == "Nothing new"


def test_a_known_file_that_is_replaced_between_two_looks_is_no_news_before_it_rests(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = tmp_path / "drop"
    write(drop / "a.jsonl", "1")
    look()
    write(drop / "a.jsonl", "12", at=2)
    with monkeypatch.context() as busy:
        busy.setattr(time, "sleep", lambda _: (drop / "a.jsonl").unlink())
        assert look().name == "Nothing new"
    write(drop / "a.jsonl", "123", at=4)
    assert look().message == "tickets: 1 edited"


def test_news_that_the_server_did_not_take_are_told_by_the_next_look_as_the_same_event(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "drop" / "a.jsonl", "1")
    server.away = True
    with pytest.raises(httpx.ConnectError):
        look()
    server.away = False

    def killed(*_: Any) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as dying:
        dying.setattr(module, "overwrite", killed)
        with pytest.raises(SystemExit):
            look()
    look()
    told, again = server.events
    assert told["id"] == again["id"]
    assert look().name == "Nothing new"


def test_what_cannot_be_listed_is_a_line_and_the_others_are_told(
    tmp_path: Path, tiny_recipe: Path, server: Server, look: Callable[..., State[Any]]
) -> None:
    write(tmp_path / "drop" / "a.jsonl", "1")
    look()
    (tmp_path / "drop").rename(tmp_path / "away")  # as a mount that is missing
    (tmp_path / "drop").mkdir()
    given = [f"tickets={tmp_path / 'drop'}", f"nowhere={tmp_path / 'no'}"]
    state = look(places=given, recipes=[str(tiny_recipe), "gone.yaml"])
    looks: list[Look] = state.data
    assert state.is_completed()
    assert state.message == "tiny-router: 1 added; 3 sources not readable (gone.yaml, tickets, nowhere)"
    assert server.events[-1]["payload"]["recipe"] == str(tiny_recipe)
    assert server.events[-1]["resource"]["prefect.resource.id"] == "reglage.dataset.tiny-router"
    troubles = {one.name: one.trouble for one in looks if one.trouble}
    assert "nothing is there" in troubles["tickets"]
    assert all("\n" not in trouble for trouble in troubles.values())
    (tmp_path / "drop").rmdir()
    (tmp_path / "away").rename(tmp_path / "drop")
    assert look().name == "Nothing new"  # it is there again, as it was told


def test_a_recipe_is_looked_at_as_its_retraining_reads_it(
    tmp_path: Path, tiny_recipe: Path, server: Server, look: Callable[..., State[Any]]
) -> None:
    write(tmp_path / "drop" / "a.jsonl", "1")
    source = f"datasets.home.source={{kind: files, path: '{tmp_path / 'drop' / '*.jsonl'}'}}"
    given = [str(tiny_recipe), with_overrides(str(tiny_recipe), ["publish.name=other", source, "seed=2"])]
    assert look(places=[], recipes=given).message == "tiny-router: 1 added; other: 1 added"
    assert [event["resource"]["prefect.resource.name"] for event in server.events] == ["tiny-router", "other"]
    assert [event["payload"]["recipe"] for event in server.events] == [str(tiny_recipe)] * 2
    assert server.events[1]["payload"]["files"] == [str(tmp_path / "drop" / "a.jsonl")]
    state = look(places=[], recipes=[f"{tiny_recipe} --set publish.nme=other"])
    assert "publish.nme" in state.data[0].trouble


def test_a_memory_that_is_damaged_tells_all_once_more(
    tmp_path: Path, server: Server, look: Callable[..., State[Any]]
) -> None:
    write(tmp_path / "drop" / "a.jsonl", "1")
    look()
    (tmp_path / "watch" / "tickets.json").write_text("{")
    assert look().name == "Changed"
    assert json.loads((tmp_path / "watch" / "tickets.json").read_text())["files"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"places": []}, "nothing to watch: name `recipes`, or `places`"),
        ({"places": ["tickets"]}, "'tickets': write NAME=PLACE"),
        ({"places": ["tickets="]}, "write NAME=PLACE"),
        ({"places": ["Tickets=/x"]}, "NAME is of a-z"),
        ({"places": ["t=az://bucket/x"]}, "is no storage this can open"),
        ({"places": ["t=/x", "t=/y"]}, "'t' is watched twice"),
        ({"quiet_seconds": -1}, "quiet_seconds: got -1, allowed is 0 to 600"),
    ],
)
def test_what_cannot_be_watched_is_named(look: Callable[..., State[Any]], given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        look(**given)


def test_the_form_is_flat_and_every_field_is_explained() -> None:
    fields = parameter_schema(watch).model_dump()["properties"]
    assert all(field["title"] and field["description"] and "default" in field for field in fields.values())
