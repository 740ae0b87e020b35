"""A served model without a web server: routes, tokens, sides, an alias that moves, what the log keeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.data.dataset import Dataset
from ftlib.data.rows import Example, Row
from ftlib.errors import DataError, ModelError, StorageError, TransientError
from ftlib.kinds.predictions import LabelPrediction, WrittenText
from ftlib.published.loaded import Answered
from ftlib.registry.aliases import AliasLog
from ftlib.registry.versions import Version
from ftlib.serving import server
from ftlib.serving.plan import ServingPlan
from ftlib.serving.server import Reply, Served
from ftlib.serving.traffic import meets_challenger
from ftlib.storage import LocalStore

TOKEN = "a-token-of-many-characters"
BROKEN, TOO_LARGE = 9, 8


class Registry:
    """Versions 1 to 9 of one model, of which the last two do not load; its aliases are real."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store

    def version(self, name: str, number: int) -> Version:
        return Version.model_construct(name=name, version=number, manifest=f"{number:064x}", published_at="then")

    def resolve(self, spec: str) -> Version:
        return self.version("mail", 1)

    def pull(self, version: Version, folder: Path, key: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "number").write_text(str(version.version))


class Loaded:
    """Answers with its own number, and refuses to be asked `bad`."""

    asks = "text"
    labels = ("v1", "v2")

    def __init__(self, folder: Path, *given: object) -> None:
        self.number = int((folder / "number").read_text())
        self.device = given[-1]
        if self.number == BROKEN:
            raise ModelError("its weights are damaged; publish again")
        if self.number == TOO_LARGE:
            raise RuntimeError("CUDA out of memory")

    def warm(self) -> None:
        pass

    def answered(self, texts: Sequence[str], batch_size: int) -> list[Answered]:
        if self.asks == "chat":
            return [Answered(WrittenText(text=f"answer to {text}"), {"length": len(text)}) for text in texts]
        if "bad" in texts:
            raise DataError("'bad' asks nothing; ask something")
        if "bug" in texts:
            raise ZeroDivisionError("/home/somebody/secret.py")
        said = LabelPrediction(label=f"v{self.number}", probability=0.75, probabilities={})
        return [
            Answered(WrittenText(text=f"you said {text}") if text == "write" else said, {"length": len(text)})
            for text in texts
        ]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(server, "ModelRegistry", Registry)
    monkeypatch.setattr(server, "LoadedVersion", Loaded)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    promote(tmp_path, 1)
    made: list[Served] = []

    def start(device: str = "cpu", **fields: Any) -> tuple[Served, list[str]]:
        told: list[str] = []
        plan = {"name": "mail", "which": "champion", "registry": str(tmp_path), "poll_seconds": 3600.0, **fields}
        made.append(Served(ServingPlan.model_validate(plan), told.append, device))
        return made[-1], told

    yield start
    for one in made:
        one.close()


def promote(folder: Path, version: int, alias: str = "champion") -> None:
    log = AliasLog(LocalStore(folder), "mail", alias)
    newest = log.newest()
    log.move(version, newest.sequence if newest else None, "me", "why")


def ask(served: Served, path: str, body: object = b"", method: str = "POST", token: str = "") -> Reply:
    async def all_of(questions: Any) -> Any:
        return served.answer(questions)

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(served.respond(method, path, token, data, all_of))


def labels(served: Served, *texts: str, ids: list[str] | None = None) -> list[str]:
    body = {"inputs": list(texts)} | ({"request_ids": ids} if ids else {})
    return [one["label"] for one in ask(served, "/predict", body).body["predictions"]]


def test_both_sides_and_what_the_alias_moves_to_are_on_the_servers_device(serve: Any, tmp_path: Path) -> None:
    promote(tmp_path, 5, "other")
    served, _ = serve(device="cuda", challenger="other", share=0.5)
    promote(tmp_path, 2)
    served._champion.poll()
    sides = [one.side for one in (served._champion, served._challenger)]
    assert [(side.version.version, side.loaded.device) for side in sides] == [(2, "cuda"), (5, "cuda")]


def test_what_is_no_route_or_method_or_body_is_said_in_json(serve: Any) -> None:
    served, _ = serve()
    assert ask(served, "/nix").status == 404
    wrong = ask(served, "/predict", method="GET")
    assert (wrong.status, wrong.headers) == (405, {"Allow": "POST"})
    assert ask(served, "/predict", b"{").status == 422
    assert ask(served, "/predict", {"inputs": []}).body["error"]["kind"] == "DataError"


def test_one_bad_input_is_named_and_spoils_nobody_elses_batch(serve: Any) -> None:
    served, _ = serve()
    refused = ask(served, "/predict", {"inputs": ["good", "bad"]})
    assert refused.status == 422
    assert refused.body["error"]["message"].startswith("inputs[1]: 'bad' asks nothing")
    side = served._champion.side
    both = served.answer([server.Question(side, server.Input(text, text)) for text in ("good", "bad")])
    assert isinstance(both[0], Answered)
    assert isinstance(both[1], DataError)


def test_a_caller_never_sees_what_broke(serve: Any) -> None:
    served, _ = serve()
    broken = ask(served, "/predict", {"inputs": ["bug"]})
    assert broken.status == 500
    assert "secret" not in json.dumps(broken.body)
    assert ask(served, "/version", method="GET").body["counts"]["failed"] == 1


def test_only_who_shows_the_token_is_let_in(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    served, _ = serve(token_file=str(tmp_path / "token"))
    body = {"inputs": ["hello"]}
    for shown in ("", TOKEN, f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x", "Bearer é"):
        refused = ask(served, "/predict", body, token=shown)
        assert (refused.status, refused.headers) == (401, {"WWW-Authenticate": "Bearer"})
        assert ask(served, "/version", method="GET", token=shown).status == 401
    assert ask(served, "/predict", body, token=f"Bearer {TOKEN}").status == 200
    health = ask(served, "/health", method="GET")
    assert (health.status, health.body) == (200, {"ready": True, "log_dropped": 0})


def test_the_alias_is_followed_and_what_does_not_load_is_not(serve: Any, tmp_path: Path) -> None:
    served, told = serve()
    assert labels(served, "a") == ["v1"]
    promote(tmp_path, 2)
    served._champion.poll()
    assert labels(served, "a") == ["v2"]
    promote(tmp_path, BROKEN)
    served._champion.poll()
    said = ask(served, "/version", method="GET").body
    assert (said["version"], said["refused"]["version"], said["refused"]["entry"]) == (2, BROKEN, 3)
    assert labels(served, "a") == ["v2"]
    promote(tmp_path, 3)
    served._champion.poll()
    assert (labels(served, "a"), ask(served, "/version", method="GET").body["refused"]) == (["v3"], None)
    assert [line.split(" ")[0] for line in told] == ["mail@2", "mail@9", "mail@3"]


def test_a_server_that_starts_behind_a_broken_version_answers_with_the_one_before(serve: Any, tmp_path: Path) -> None:
    promote(tmp_path, 2)
    promote(tmp_path, BROKEN)
    served, _ = serve()
    assert labels(served, "a") == ["v2"]
    assert ask(served, "/version", method="GET").body["refused"]["version"] == BROKEN


def test_a_registry_that_does_not_answer_is_told_once_and_the_version_answers_on(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, told = serve()

    def dead(self: object, sequence: int) -> None:
        raise TransientError("no route to the bucket")

    with monkeypatch.context() as patch:
        patch.setattr(AliasLog, "read", dead)
        served._champion.poll()
        served._champion.poll()
    assert labels(served, "a") == ["v1"]
    assert "no route" in str(ask(served, "/version", method="GET").body["trouble"])
    served._champion.poll()
    assert ["cannot" in line for line in told] == [True, False]


def test_a_request_always_meets_the_same_side_and_the_share_is_kept(serve: Any, tmp_path: Path) -> None:
    promote(tmp_path, 2, "challenger")
    served, _ = serve(challenger="challenger", share=0.3)
    ids = [f"r{number}" for number in range(200)]
    first = labels(served, *["a"] * 200, ids=ids)
    assert first == labels(served, *["a"] * 200, ids=ids)
    assert first == ["v2" if meets_challenger(id, 0.3) else "v1" for id in ids]
    # 200 draws of 0.3: within five standard deviations
    assert abs(sum(meets_challenger(f"q{n}", 0.3) for n in range(10_000)) - 3000) < 5 * (10_000 * 0.3 * 0.7) ** 0.5
    assert not any(meets_challenger(id, 0.0) for id in ids)
    assert all(meets_challenger(id, 1.0) for id in ids)


def records(folder: Path, kind: Any) -> list[Any]:
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [kind.model_validate_json(line) for line in lines]


def test_the_shadow_is_logged_and_never_returned(serve: Any, tmp_path: Path) -> None:
    promote(tmp_path, 2, "challenger")
    served, _ = serve(challenger="challenger", shadow=True, log=str(tmp_path / "log"))
    assert labels(served, "a", "b", ids=["x", "y"]) == ["v1", "v1"]
    while ask(served, "/version", method="GET").body["counts"].get("shadow") != 2:
        pass
    served.close()
    found = {(one.request, one.traffic, one.label) for one in records(tmp_path / "log" / "answers", LiveAnswer)}
    assert found == {(id, traffic, label) for id in "xy" for traffic, label in (("answered", "v1"), ("shadow", "v2"))}


@pytest.mark.parametrize("inputs", ["none", "text"])
def test_the_log_holds_no_word_that_was_asked_unless_it_is_to(serve: Any, tmp_path: Path, inputs: str) -> None:
    served, _ = serve(log=str(tmp_path / "log"), log_inputs=inputs)
    assert ask(served, "/predict", {"inputs": ["hello", "write"]}).status == 200
    assert ask(served, "/feedback", {"request": "r", "label": "v2"}).status == 202
    served.close()
    one, two = records(tmp_path / "log" / "answers", LiveAnswer)
    assert (one.label, one.probability, one.version, one.measures) == ("v1", 0.75, 1, {"length": 5})
    assert (one.input, two.input) == (("hello", "write") if inputs == "text" else (None, None))
    assert (two.answer is None) == (inputs == "none")
    (late,) = records(tmp_path / "log" / "labels", LateLabel)
    assert (late.request, late.label) == ("r", "v2")


def test_a_chat_that_was_logged_comes_back_as_rows_of_chats(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a served chat model wrote, and what was said of it, is learnt as the same turns that it had read."""
    monkeypatch.setattr(Loaded, "asks", "chat")
    served, _ = serve(log=str(tmp_path / "log"), log_inputs="text")
    asked: list[Any] = ["write", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "[write]"}]]
    ids = {"request_ids": ["text", "turns"]}
    assert ask(served, "/predict", {"inputs": asked, **ids}).status == 200
    again = [*asked[1], {"role": "assistant", "content": "no"}, {"role": "user", "content": "Again?"}]
    assert ask(served, "/predict", {"inputs": [again], "request_ids": ["again"]}).status == 200
    for said in (
        {"request": "text", "thumb": True},
        {"request": "turns", "thumb": False, "correction": "done"},
        {"request": "again", "thumb": False},
    ):
        assert ask(served, "/feedback", said).status == 202
    served.close()
    turns = {"text": [{"role": "user", "content": "write"}], "turns": asked[1], "again": again}

    def rows(gives: str, **format: Any) -> dict[Any, Example]:
        source = {"kind": "feedback", "path": str(tmp_path / "log"), "gives": gives, "layout": "chats"}
        names = {"request": "request", "prompt": "input", "time": "at"}
        dataset = Dataset.model_validate({"source": source | names, "format": format})
        read = [one for one in dataset.source.read(dataset.source.pin(), 10_000) if isinstance(one, Row)]
        examples = {row.values["request"]: dataset.format.example(row.values) for row in read}
        assert all(isinstance(one, Example) for one in examples.values())
        return cast("dict[Any, Example]", examples)

    corrected = rows("corrections", kind="chat", messages="messages")
    assert [[json.loads(part) for part in one.parts] for one in corrected.values()] == [
        [None, *asked[1], {"role": "assistant", "content": "done"}]
    ]
    answers = {"layout": "chats", "prompt": "input"}
    thumbs = rows("thumbs", kind="thumb", answer="answer", label="thumb", **answers)
    assert {id: [json.loads(part) for part in one.parts[1:]] for id, one in thumbs.items()} == turns
    assert {id: cast("Any", one.target)["wanted"] for id, one in thumbs.items()} == {
        "text": True,
        "turns": False,
        "again": False,
    }
    pairs = rows("pairs", kind="preference", chosen="chosen", rejected="rejected", **answers)
    assert {id: (one.parts[0], json.loads(one.parts[-1])) for id, one in pairs.items()} == {
        "turns": ("done", asked[1][-1])
    }


def test_feedback_may_name_a_label_of_any_version_that_was_asked(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loaded, "labels", property(lambda self: ("both", f"only{self.number}")))
    promote(tmp_path, 2, "challenger")
    served, _ = serve(challenger="challenger", share=0.5, log=str(tmp_path / "log"))
    promote(tmp_path, 3)
    assert ask(served, "/feedback", {"request": "r", "label": "only3"}).status == 422
    served._champion.poll()
    for label in ("both", "only1", "only2", "only3"):
        assert ask(served, "/feedback", {"request": "r", "label": label}).status == 202
    refused = ask(served, "/feedback", {"request": "r", "label": "only4"})
    assert refused.status == 422
    assert "the model answers with both, only3, only1, only2" in refused.body["error"]["message"]


def test_where_a_version_has_no_labels_feedback_may_say_any(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loaded, "labels", property(lambda self: ("v1",) if self.number == 1 else ()))
    promote(tmp_path, 2, "challenger")
    served, _ = serve(challenger="challenger", share=0.5, log=str(tmp_path / "log"))
    assert ask(served, "/feedback", {"request": "r", "label": "anything"}).status == 202


def test_feedback_needs_a_log(serve: Any) -> None:
    served, _ = serve()
    refused = ask(served, "/feedback", {"request": "r", "thumb": True})
    assert refused.status == 404
    assert "--log" in refused.body["error"]["message"]


def test_a_log_that_refuses_fails_no_request_and_is_shown(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, path: str, data: bytes) -> bool:
        raise StorageError("no space left")

    served, _ = serve(log=str(tmp_path / "log"), log_seconds=0.01)
    monkeypatch.setattr(LocalStore, "create", full)
    assert labels(served, "a") == ["v1"]
    while ask(served, "/version", method="GET").body["log"]["error"] is None:
        pass
    assert "no space left" in ask(served, "/version", method="GET").body["log"]["error"]


@pytest.mark.parametrize(
    "fields",
    [
        {"share": 0.5},
        {"shadow": True},
        {"challenger": "challenger"},
        {"challenger": "challenger", "share": 0.5, "shadow": True},
        {"challenger": "champion", "share": 0.5},
    ],
)
def test_traffic_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Value error"):
        ServingPlan.model_validate({"name": "mail", "which": "champion", "registry": "r", **fields})


@pytest.mark.parametrize(("version", "why"), [(BROKEN, "weights are damaged"), (TOO_LARGE, "CUDA out of memory")])
def test_a_challenger_that_does_not_load_leaves_everything_to_the_champion(
    serve: Any, tmp_path: Path, version: int, why: str
) -> None:
    served, told = serve(challenger=version, share=0.5)
    assert any(why in line and line.endswith("the champion answers everything") for line in told)
    assert {*labels(served, *"abcdefgh")} == {"v1"}


def test_a_champion_that_does_not_fit_is_told_in_one_line(serve: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"mail@8 does not load: .*CUDA out of memory"):
        serve(which=TOO_LARGE)
