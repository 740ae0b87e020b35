"""Looking at where rows come from: each change is told once, whole, and nothing is read or started."""

import json
import os
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import httpx
import pytest
from moto.server import ThreadedMotoServer
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


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    loader = botocore.loaders.create_loader()
    monkeypatch.setattr(botocore.session, "create_loader", lambda _: loader)  # each client would read its JSON anew
    bucket = boto3.resource("s3", endpoint_url=s3_endpoint).Bucket(f"watched-{uuid.uuid4().hex}")
    bucket.create()
    return bucket


def test_an_object_is_told_once_it_is_whole_and_a_burst_by_one_event(
    server: Server, look: Callable[..., State[Any]], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = [f"tickets=s3://{bucket.name}/drop/"]
    upload = bucket.Object("drop/large.jsonl").initiate_multipart_upload()
    part = upload.Part(1).upload(Body=b"1")  # what is half sent is no object yet
    assert "nothing is there" in look(places=tickets).data[0].trouble
    for n in range(5):
        bucket.put_object(Key=f"drop/{n:02}.jsonl", Body=b"1")

    def meanwhile(_: float) -> None:
        upload.complete(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
        bucket.put_object(Key="drop/00.jsonl", Body=b"1, 2")  # as a program that writes line by line does

    with monkeypatch.context() as busy:
        busy.setattr(time, "sleep", meanwhile)
        assert look(places=tickets).message == "tickets: 4 added, 2 waiting"
    assert look(places=tickets).message == "tickets: 2 added"
    assert look(places=tickets).name == look(places=tickets).name == "Nothing new"
    burst, late = server.events
    counts = {"added": 4, "edited": 0, "vanished": 0, "waiting": 2}
    assert burst["payload"] == burst["payload"] | counts | {"place": f"s3://{bucket.name}/drop/"}
    assert late["payload"]["files"] == [f"s3://{bucket.name}/drop/{name}.jsonl" for name in ("00", "large")]
    bucket.put_object(Key="drop/03.jsonl", Body=b"one")
    bucket.Object("drop/04.jsonl").delete()
    assert look(places=tickets).message == "tickets: 1 edited, 1 vanished"
    assert len({event["id"] for event in server.events}) == len(server.events) == 3


def test_a_recipe_s_bucket_waits_for_the_word_of_who_fills_it(
    tiny_recipe: Path, server: Server, look: Callable[..., State[Any]], bucket: Any
) -> None:
    source = f"{{kind: files, path: 's3://{bucket.name}/drop/', marker: _SUCCESS}}"
    given = {"places": [], "recipes": [with_overrides(str(tiny_recipe), [f"datasets.home.source={source}"])]}
    bucket.put_object(Key="drop/monday/a.jsonl", Body=b"1")
    bucket.put_object(Key="drop/monday/b.jsonl", Body=b"2")
    assert look(**given).message == "nothing new"
    assert server.events == []
    bucket.put_object(Key="drop/monday/_SUCCESS", Body=b"")
    assert look(**given).message == "tiny-router: 2 added"
    assert look(**given).name == "Nothing new"
    (event,) = server.events
    assert event["resource"]["prefect.resource.id"] == "reglage.dataset.tiny-router"


def allowed_without_a_key(s3_endpoint: str, requests: bytes) -> None:
    """Let the server ask, after so many requests, whether it knows who sends them."""
    address, plain = f"{s3_endpoint}/moto-api/reset-auth", {"content-type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(address, requests, plain, method="POST")).close()


def test_a_bucket_that_is_closed_or_absent_is_one_line_and_the_others_are_told(
    s3_endpoint: str, server: Server, look: Callable[..., State[Any]], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Key="drop/a.jsonl", Body=b"1")
    there = f"tickets=s3://{bucket.name}/drop/"
    state = look(places=[there, f"absent=s3://absent-{uuid.uuid4().hex}/drop/"])
    assert state.message == "tickets: 1 added; 1 source not readable (absent)"
    _, absent = state.data
    assert "NoSuchBucket" in absent.trouble
    assert "create the bucket, or correct its name" in absent.trouble
    allowed_without_a_key(s3_endpoint, b"0")
    state = look(places=[there])  # as after keys were changed
    allowed_without_a_key(s3_endpoint, b"inf")
    assert state.message == "nothing new; 1 source not readable (tickets)"
    trouble = state.data[0].trouble
    assert "testing" not in trouble
    assert trouble.count("\n") == 0
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "redential" in look(places=[there]).data[0].trouble
    assert len(server.events) == 1


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
