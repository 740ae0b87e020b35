"""Who is told what: automations of Prefect's server that send a sentence and a link through a notification block.

The address, which is a secret, stays in the block on the server. `python -m deployments.notifications team slack`
makes one from $REGLAGE_NOTIFY_ADDRESS; any other notification block of Prefect's will do as well.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal, NamedTuple, cast
from uuid import UUID

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import EventTrigger, ResourceSpecification
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.types import SecretDict
from pydantic import SecretStr, TypeAdapter

from deployments.automations import FLOWS
from deployments.environment import Notification, Occasion
from flows.events import DRIFT, QUALITY
from ftlib.config import Name
from ftlib.errors import RecipeError, ReglageError, StorageError, first_line

ADDRESS = "REGLAGE_NOTIFY_ADDRESS"
"""Holds the address of a block that is to be made: no secret stands in a command line."""

_PREFIX = "reglage: tell "

Kind = Literal["slack", "mail", "webhook"]


class _Told(NamedTuple):
    """What is said on an occasion."""

    states: tuple[str, ...]
    subject: str
    sentence: str


_TOLD: dict[Occasion, _Told] = {
    "failed": _Told(("Failed", "TimedOut"), "failed", "The run failed; nothing was promoted."),
    "crashed": _Told(
        ("Crashed",),
        "crashed",
        "The run's process is gone. A run of a deployment that finetunes, retrains or evaluates is run again by "
        "itself, twice at most, and goes on from where it was; any other waits for Retry on its page.",
    ),
    "refused": _Told(
        ("Refused", "Not promoted"),
        "promoted nothing",
        "The run ended well, and the version in place stays.",
    ),
    "waiting": _Told(
        ("Suspended",),
        "waits for your answer",
        "A new version may replace the one in place, if you agree: open the page, read the case, press Resume. Without "
        "an answer the run fails after seven days.",
    ),
    "held": _Told(
        ("Held",),
        "is held by a rollback",
        "A new version would have been promoted, but a person rolled back and nobody has promoted since.",
    ),
    "superseded": _Told(
        ("Superseded",), "was superseded", "A newer retraining of the same model asks in its place; answer that one."
    ),
    "promoted": _Told(("Promoted",), "promoted a version", "A new version is in place."),
    "rolled_back": _Told(
        ("Rolled back",),
        "rolled a version back",
        "Live answers were worse than they may be, so that the version before is in place again, as the recipe's rule "
        "says.",
    ),
}
_WELL = ("Promoted", "Not promoted", "Skipped", "Held", "Suspended", "Superseded", "Completed")
_BADLY = ("Failed", "TimedOut", "Crashed", "Cancelled")


def notices(client: SyncPrefectClient, notifications: Sequence[Notification], environment: str) -> list[AutomationCore]:
    """Return the automations that tell people of an environment's runs; its name is part of theirs.

    The runs carry its name as a tag: those of its file's deployments, and those of `reglage deploy`'s.

    Raises StorageError for a block that the server has not, or that sends nothing.
    """
    return [
        _automation(f"{_PREFIX}{notification.block} of {what} ({environment})", told, block)
        for notification in notifications
        for block in [_block_id(client, notification.block)]
        for what, told in _wanted(notification, environment)
    ]


def is_notice(name: str, whose: str) -> bool:
    """Say whether an automation is one of those that tell people of an environment's runs."""
    return name.startswith(_PREFIX) and name.endswith(f" ({whose})")


def _wanted(notification: Notification, tag: str) -> Iterator[tuple[str, tuple[EventTrigger, str, str]]]:
    pages = get_current_settings().ui_url
    for occasion in dict.fromkeys(notification.events):
        if occasion == "too_old":
            yield "models that are too old", _too_old(notification.too_old_days, tag, pages)
        elif occasion == "drifted":
            yield (
                "drift",
                _of_answers(DRIFT, "drifted", "What the model is asked is no longer like what it was made with."),
            )
        elif occasion == "worse":
            yield "worse answers", _of_answers(QUALITY, "answers worse", "Its live answers are worse than they may be.")
        else:
            yield f"runs that are {occasion}", _of_runs(_TOLD[occasion], tag, pages)


def _of_runs(told: _Told, tag: str, pages: str | None) -> tuple[EventTrigger, str, str]:
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=[*_ours(FLOWS, tag)],
        expect={f"prefect.flow-run.{state}" for state in told.states},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    link = f"{pages}/runs/flow-run/{{{{ flow_run.id }}}}" if pages else "{{ flow_run|ui_url }}"
    said = _where_any("flow_run.state.message")
    return trigger, f"{{{{ flow_run.name }}}} {told.subject}", f"{told.sentence}{said}\n\n{link}"


def _too_old(days: int, tag: str, pages: str | None) -> tuple[EventTrigger, str, str]:
    """Fire once nothing ended well for a number of days, for each deployment that ever ran."""
    name, identity = (f"related:deployment:prefect.resource.{field}" for field in ("name", "id"))
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=[*_ours(("retrain",), tag)],
        after={f"prefect.flow-run.{state}" for state in (*_WELL, *_BADLY)},
        expect={f"prefect.flow-run.{state}" for state in _WELL},
        for_each={name, identity},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(days=days),
    )
    whose = f"{{{{ firing.triggering_labels['{name}'] }}}}"
    which = f"{{{{ firing.triggering_labels['{identity}'] | replace('prefect.deployment.', '') }}}}"
    link = f"{pages}/deployments/deployment/{which}" if pages else ""
    sentence = f"No run of {whose} ended well for {days} days: the model does not follow its data. Look why."
    return trigger, f"{whose} is too old", f"{sentence}\n\n{link}"


def _of_answers(event: str, subject: str, sentence: str) -> tuple[EventTrigger, str, str]:
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["reglage.*"]}),
        expect={event},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    body = sentence + _where_any("event.payload.message") + _where_any("event.payload.link")
    return trigger, f"{{{{ event.resource.name or event.resource.id }}}} {subject}", body


def _where_any(text: str) -> str:
    """Return a template's paragraph, or nothing where the server has nothing to say."""
    return f"{{{{ '\\n\\n' ~ {text} if {text} else '' }}}}"


def _ours(flows: Sequence[str], tag: str) -> list[ResourceSpecification]:
    ours = ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": [*flows]})
    tagged = ResourceSpecification({"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{tag}"]})
    return [ours, tagged]


def _automation(name: str, told: tuple[EventTrigger, str, str], block: UUID) -> AutomationCore:
    trigger, subject, body = told
    return AutomationCore(
        name=name,
        trigger=trigger,
        actions=[SendNotification(block_document_id=block, subject=subject, body=body)],
    )


def _block_id(client: SyncPrefectClient, block: str) -> UUID:
    kind, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        raise StorageError(
            f"the server has no block {block}; make one in its page Blocks, or with "
            f"`{ADDRESS}=... python -m deployments.notifications {name} slack|mail|webhook`"
        ) from None
    if document.block_schema is None or "notify" not in document.block_schema.capabilities:
        raise StorageError(f"the block {block} sends no notifications; name one that does, as slack-webhook/{name}")
    return document.id


def save_block(name: Name, kind: Kind, address: str) -> str:
    """Save a block on the server, in place of one of that name; return it as type/name.

    `address` is a Slack webhook's URL; `mailtos://user:password@smtp.host?to=team@host` (mailto:// without TLS); or the
    URL that is posted {subject, body}. Prefect has no block type for mail of its own: its Slack block hands an address
    that is not Slack's to the library Apprise, which sends mail. Raises RecipeError for an address that cannot be.
    """
    block = _block(name, kind, address)
    cast("Any", block).save(name, overwrite=True, _sync=True)
    return f"{block.get_block_type_slug()}/{name}"


def _block(name: Name, kind: Kind, address: str) -> NotificationBlock:
    """Return the block of an address. Raises RecipeError, without the address, for one that cannot be."""
    scheme, separator, rest = address.partition("://")
    allowed = {"slack": ("https",), "mail": ("mailto", "mailtos"), "webhook": ("http", "https")}[kind]
    if not separator or not rest or scheme not in allowed:
        raise RecipeError(f"{ADDRESS}: an address of {kind} begins with {' or '.join(f'{s}://' for s in allowed)}")
    if kind == "webhook":
        texts = {"subject": "{{subject}}", "body": "{{body}}"}
        # The URL may hold a token, and only this block's `secrets` are kept encrypted and hidden.
        return CustomWebhookNotificationBlock(
            name=name,
            url="{{address}}",
            json_data=dict(texts),
            headers=None,
            cookies=None,
            secrets=SecretDict({"address": address}),
        )
    try:
        return SlackWebhook(url=SecretStr(address))
    except Exception as error:
        raise RecipeError(f"{ADDRESS}: {first_line(error).replace(address, '...')}") from None


def main(arguments: Sequence[str]) -> None:
    """Make a block: NAME slack|mail|webhook, the address in $REGLAGE_NOTIFY_ADDRESS."""
    try:
        if len(arguments) != 2 or arguments[1] not in ("slack", "mail", "webhook") or not os.environ.get(ADDRESS):
            raise RecipeError(f"usage: {ADDRESS}=... python -m deployments.notifications NAME slack|mail|webhook")
        name = TypeAdapter(Name).validate_python(arguments[0])
        print(save_block(name, arguments[1], os.environ[ADDRESS]))
    except (ReglageError, ValueError) as error:
        raise SystemExit(f"reglage: {first_line(error)}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
