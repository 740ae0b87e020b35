"""Who is told what: triggers against events as Prefect's server makes them, texts rendered by it, blocks that send."""

import json
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.server.events.actions import SendNotification
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import render_user_template_sync
from prefect.settings import PREFECT_UI_URL, temporary_settings

from deployments.changes import _notice_steps
from deployments.deployment import BY_HAND, recipe_deployment
from deployments.environment import DeployedRecipe, Environment, Notification, Occasion
from deployments.notifications import ADDRESS, _block, is_notice, main, notices
from flows.events import DRIFT
from ftlib.errors import RecipeError, StorageError

BLOCK = UUID(int=7)
RUN = UUID(int=9)


class Client:
    """A server with one block that notifies, and one that does not."""

    def read_block_document_by_name(self, name: str, kind: str, include_secrets: bool) -> Any:
        if name == "nobody":
            raise ObjectNotFound(Exception("404"))
        can = ["notify"] if kind == "slack-webhook" else []
        return SimpleNamespace(id=BLOCK, block_schema=SimpleNamespace(capabilities=can))

    def read_automations_by_name(self, name: str) -> list[Any]:
        return []

    def read_automations(self) -> list[Any]:
        names = ("of drift (staging)", "of runs that are failed (staging)", "of runs that are held (production)")
        others = [SimpleNamespace(id=2, name="a person's own (staging)")]
        return [*(SimpleNamespace(id=1, name=f"reglage: tell slack-webhook/team {name}") for name in names), *others]


CLIENT = cast(SyncPrefectClient, Client())


def event(state: str, flow: str = "retrain", tags: tuple[str, ...] = ("reglage:staging", "staging")) -> ReceivedEvent:
    related = [
        {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow", "prefect.resource.name": flow},
        {
            "prefect.resource.id": "prefect.deployment.5",
            "prefect.resource.role": "deployment",
            "prefect.resource.name": "retrain-router",
        },
        *({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags),
    ]
    resource = {"prefect.resource.id": f"prefect.flow-run.{RUN}", "prefect.run-count": "1"}
    return ReceivedEvent(
        id=uuid4(), occurred=datetime.now(UTC), event=f"prefect.flow-run.{state}", resource=resource, related=related
    )


OURS = "staging"


def told(what: Occasion) -> tuple[EventTrigger, SendNotification]:
    with temporary_settings({PREFECT_UI_URL: "http://pages"}):
        (made,) = notices(CLIENT, [Notification(block="slack-webhook/team", events=(what,))], OURS)
    assert is_notice(made.name, "staging")
    assert not is_notice(made.name, "production")
    trigger = EventTrigger.model_validate(made.trigger.model_dump(mode="json"))
    return trigger, SendNotification.model_validate(made.actions[0].model_dump(mode="json"))


def fires(trigger: EventTrigger, one: ReceivedEvent) -> bool:
    return trigger.covers(one) and trigger.expects(one.event)


@pytest.mark.parametrize(
    ("what", "states", "says"),
    [
        ("failed", ("Failed", "TimedOut"), "nothing was promoted"),
        ("crashed", ("Crashed",), "run again by itself, twice"),
        ("refused", ("Refused", "Not promoted"), "the version in place stays"),
        ("waiting", ("Suspended",), "press Resume"),
        ("held", ("Held",), "a person rolled back"),
        ("superseded", ("Superseded",), "answer that one"),
        ("promoted", ("Promoted",), "A new version is in place"),
        ("rolled_back", ("Rolled back",), "the version before is in place again"),
    ],
)
def test_each_end_of_a_run_is_told_once_with_a_sentence_and_a_link(
    what: Occasion, states: tuple[str, ...], says: str
) -> None:
    trigger, action = told(what)
    seen = {state for _, more in ENDS.items() for state in more if fires(trigger, event(state))}
    assert seen == {*states}
    assert not fires(trigger, event(states[0], flow="somebody-else-s"))
    run = SimpleNamespace(id=RUN, name="retrain-router", run_count=2, state=SimpleNamespace(message="it is <so>"))
    subject, body = (render_user_template_sync(text, {"flow_run": run}) for text in (action.subject, action.body))
    assert subject.startswith("retrain-router ")
    sentence, _, rest = body.partition("\n\n")
    assert says in sentence
    assert rest == f"it is <so>\n\nhttp://pages/runs/flow-run/{RUN}"
    run.state.message = None
    quiet = render_user_template_sync(action.body, {"flow_run": run})
    assert quiet == f"{sentence}\n\nhttp://pages/runs/flow-run/{RUN}"
    assert action.block_document_id == BLOCK


ENDS = {
    "bad": ("Failed", "TimedOut", "Crashed", "Cancelled"),
    "good": (
        "Refused",
        "Not promoted",
        "Held",
        "Rolled back",
        "Superseded",
        "Promoted",
        "Skipped",
        "Completed",
        "Not approved",
    ),
    "between": ("Suspended", "Running", "Pending", "Scheduled", "AwaitingRetry", "Resuming", "Cancelling"),
}


def test_another_environment_s_runs_are_not_told_of() -> None:
    trigger, _ = told("failed")
    assert not fires(trigger, event("Failed", tags=("reglage", "reglage:production", "production", "retrain")))


@pytest.mark.parametrize("owner", ["reglage:staging", BY_HAND])
@pytest.mark.parametrize("what", ["failed", "too_old"])
def test_what_the_file_has_and_what_the_command_made_is_told_of(
    what: Occasion, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    recipe = DeployedRecipe(recipe="recipes/fresh_data.yaml")
    trigger, _ = told(what)
    for name, covered in (("staging", True), ("production", False)):
        tags = recipe_deployment(recipe, Environment(name=name), owner.replace("staging", name)).tags
        assert trigger.covers(event("Failed", tags=tags)) == covered


def test_a_model_is_too_old_if_nothing_ends_well_for_days() -> None:
    trigger, action = told("too_old")
    assert (trigger.posture.value, trigger.within.days) == ("Proactive", 7)
    assert not trigger.expects("prefect.flow-run.Failed")
    assert {state for state in ENDS["good"] if trigger.expects(f"prefect.flow-run.{state}")} >= {"Promoted", "Skipped"}
    assert trigger.starts_after("prefect.flow-run.Failed")  # one that never ended well is not forgotten
    key = trigger.bucketing_key(event("Failed"))
    labels = dict(zip(sorted(trigger.for_each), key, strict=True))
    firing = {"firing": SimpleNamespace(triggering_labels=labels)}
    assert render_user_template_sync(action.subject, firing) == "retrain-router is too old"
    assert render_user_template_sync(action.body, firing).endswith("http://pages/deployments/deployment/5")


@pytest.mark.parametrize(
    ("about", "said"), [({"prefect.resource.name": "router"}, "router drifted"), ({}, "reglage.model.router drifted")]
)
def test_drift_is_told_in_the_words_of_who_found_it(about: dict[str, str], said: str) -> None:
    trigger, action = told("drifted")
    drift = ReceivedEvent(
        id=uuid4(),
        occurred=datetime.now(UTC),
        event=DRIFT,
        resource={"prefect.resource.id": "reglage.model.router", **about},
        payload={"message": "psi of length is 0.4"},
    )
    assert fires(trigger, drift)
    assert render_user_template_sync(action.subject, {"event": drift}) == said
    assert "psi of length is 0.4" in render_user_template_sync(action.body, {"event": drift})


def test_every_occasion_is_told_and_each_automation_has_a_name_of_its_own() -> None:
    every = Notification(block="slack-webhook/team", events=get_args(Occasion))
    mine = Notification(block="slack-webhook/me")
    names = [one.name for one in notices(CLIENT, [every, mine], OURS)]
    assert len({*names}) == len(names) == len(every.events) + len(mine.events)


def test_what_nobody_asks_for_any_more_is_deleted_and_nobody_else_s() -> None:
    notification = Notification(block="slack-webhook/team", events=("failed",))
    steps = _notice_steps(CLIENT, Environment(name="staging", notifications=(notification,)))
    assert [(step.change.what, step.change.name) for step in steps] == [
        ("created", "reglage: tell slack-webhook/team of runs that are failed (staging)"),
        ("deleted", "reglage: tell slack-webhook/team of drift (staging)"),
    ]


@pytest.mark.parametrize(
    ("block", "message"),
    [("slack-webhook/nobody", "has no block slack-webhook/nobody; make one"), ("s3-bucket/rows", "sends no notific")],
)
def test_a_block_that_cannot_tell_is_named(block: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        notices(CLIENT, [Notification(block=block)], OURS)


class Heard(BaseHTTPRequestHandler):
    """A webhook that keeps what it is sent."""

    posted: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Mailbox(socketserver.StreamRequestHandler):
    """An SMTP server that takes everything."""

    mails: list[str] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.mails.append(b"".join(line.removeprefix(b".") for line in lines).decode())
            self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    make = ThreadingHTTPServer if request.param is Heard else socketserver.ThreadingTCPServer
    with make(("127.0.0.1", 0), request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("port", [Heard], indirect=True)
def test_a_webhook_is_posted_to_and_its_address_stays_secret(port: int) -> None:
    address = f"http://127.0.0.1:{port}/hook?token=S3CRET"
    block = _block("team", "webhook", address)
    body = 'He said "no": {{ 1 }}\nhttp://pages/x'
    cast(Any, block).notify(subject="router failed", body=body)
    assert Heard.posted == [{"subject": "router failed", "body": body}]
    assert "S3CRET" not in repr(block)
    assert "S3CRET" not in str(block.model_dump(mode="json"))


@pytest.mark.parametrize("port", [Mailbox], indirect=True)
def test_a_mail_is_sent(port: int) -> None:
    block = _block("team", "mail", f"mailto://127.0.0.1:{port}?from=reglage@example.org&to=team@example.org")
    cast(Any, block).notify(subject="router waits", body="press Resume\nhttp://pages/x")
    (mail,) = Mailbox.mails
    assert "To: team@example.org" in mail
    assert "Subject: router waits" in mail


@pytest.mark.parametrize(
    ("kind", "address", "message"),
    [
        ("slack", "hooks.slack.com/services/S3CRET", "an address of slack begins with https://"),
        ("slack", "https://", "an address of slack"),
        ("mail", "smtp://S3CRET@host", "an address of mail begins with mailto:// or mailtos://"),
        ("webhook", "ftp://S3CRET", "begins with http:// or https://"),
    ],
)
def test_an_address_that_cannot_be_is_one_line_without_it(kind: Any, address: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        _block("team", kind, address)
    assert "S3CRET" not in str(error.value)


def test_the_script_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(SystemExit, match="usage: REGLAGE_NOTIFY_ADDRESS="):
        main(["team", "slack"])
