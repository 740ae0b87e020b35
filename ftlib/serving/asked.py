"""What a request asks: bounded, checked, and said in the words that `reglage predict` takes."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from ftlib.answer_log.record import LateLabel
from ftlib.data.identity import identity
from ftlib.errors import DataError
from ftlib.published.loaded import Asks
from ftlib.storage.leases import utc_now
from ftlib.wording import some

LONGEST_ID = 200
"""Characters of a request's id."""

_SHAPES = {
    "text": "a string",
    "question": 'an object {"question": "...", "context": "..."}',
    "chat": 'what the user says, a string, or all turns so far, [{"role": "user", "content": "..."}]',
    "image": 'an object {"image_base64": "..."} with the bytes of an image file',
}


class Input(NamedTuple):
    """One thing that is asked."""

    request: str
    """Its id, by which a challenger's share is drawn and later labels are joined."""
    text: str
    """As a line to `reglage predict`; of an image nothing."""
    image: bytes | None = None
    """The bytes of an image file."""


def body_of(data: bytes) -> dict[str, Any]:
    """Return a body's JSON object. Raises DataError."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is no JSON ({type(error).__name__}); send one object") from None
    if not isinstance(body, dict):
        raise DataError(f"the body is {_kind(body)}, allowed is one JSON object; see docs/serve.md")
    return body


def inputs_of(body: dict[str, Any], asks: Asks, most: int) -> list[Input]:
    """Return what a body asks. Raises DataError, which says which input is wrong."""
    _only(body, "inputs", "request_ids")
    given = body.get("inputs")
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        got = f"a list of {len(given)}" if isinstance(given, list) else _kind(given)
        remedy = "send more in several requests" if isinstance(given, list) and given else "send at least one"
        raise DataError(f"inputs: got {got}, allowed is a list of 1 to {most}; {remedy}")
    ids = _ids(body.get("request_ids"), len(given))
    return [Input(id, *_asked(one, asks, f"inputs[{i}]")) for i, (id, one) in enumerate(zip(ids, given, strict=True))]


def _only(body: dict[str, Any], *allowed: str) -> None:
    if unknown := sorted(body.keys() - set(allowed)):
        raise DataError(f"unknown field {unknown[0][:60]!r}; allowed are {', '.join(allowed)}")


def _ids(given: Any, count: int) -> list[str]:
    if given is None:
        return [uuid.uuid4().hex for _ in range(count)]
    fits = isinstance(given, list) and all(isinstance(one, str) and 1 <= len(one) <= LONGEST_ID for one in given)
    if not fits or len(given) != count or len(set(given)) != count:
        raise DataError(
            f"request_ids: allowed is one string of 1 to {LONGEST_ID} characters for each of the {count} inputs, no "
            "two alike; leave it out, and they are drawn"
        )
    for one in given:
        _encodable(one, "request_ids")
    return given


def _asked(given: Any, asks: Asks, where: str) -> tuple[str, bytes | None]:
    shape = f"{where}: got {_kind(given)}, this model is asked {_SHAPES[asks]}"
    if asks == "image":
        if not isinstance(given, dict) or given.keys() != {"image_base64"}:
            raise DataError(f"{shape}; paths are not read")
        try:
            return "", base64.b64decode(given["image_base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise DataError(f"{where}: image_base64 is no base64; encode the file's bytes") from None
    allowed = {"text": str, "question": dict, "chat": (str, list)}[asks]
    if not isinstance(given, allowed):
        raise DataError(f"{shape}; send that")
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    _encodable(text, where)
    return text, None


def _encodable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: character {error.start} is half of one; send whole characters") from None


def label_of(body: dict[str, Any], labels: Sequence[str] = ()) -> LateLabel:
    """Return what somebody found out about an answer. Raises DataError, also for a label that is none of `labels`.

    An answer could never be right by such a label, so a slip of the pen would count against the model.
    """
    _only(body, "request", "label", "thumb", "correction")
    try:
        late = LateLabel.model_validate({**body, "at": utc_now()}, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise DataError(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}; send "
            '{"request": "<id>"} with label, thumb (true or false) or correction'
        ) from None
    if late.label is None and late.thumb is None and late.correction is None:
        raise DataError("nothing is said of the request; send label, thumb (true or false) or correction beside it")
    if labels and late.label is not None and identity(late.label) not in map(identity, labels):
        raise DataError(
            f"label: got {late.label[:60]!r}, the model answers with {some(labels)}; send one of these, or what is "
            "none of them as correction"
        )
    for text in (late.request, late.label or "", late.correction or ""):
        _encodable(text, "feedback")
    return late


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
