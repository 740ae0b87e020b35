"""A served model as its web server sees it: a request in, a status and a JSON object out.

    POST /predict    {"inputs": [...], "request_ids": [...]}
    POST /feedback   {"request": "<id>", "label": ... | "thumb": ... | "correction": ...}
    GET  /version    what answers, since when, the traffic, the log
    GET  /health     200 once the model answers

A caller never sees a traceback, nor a path of this machine: what is its fault is a 4xx with one line, all else a 500
whose reason is in the server's log.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from ftlib.answer_log.record import Traffic
from ftlib.answer_log.writer import ANSWERS, LABELS, LogWriter
from ftlib.errors import DataError, RecipeError, ReglageError
from ftlib.kinds.predictions import Unasked
from ftlib.models.adapter import Bases
from ftlib.published.loaded import Answered, LoadedVersion
from ftlib.registry.registry import ModelRegistry
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import Version
from ftlib.serving.asked import Input, body_of, inputs_of, label_of
from ftlib.serving.following import Following, Poller, Side, Tell
from ftlib.serving.logged import live_answer
from ftlib.serving.plan import ServingPlan
from ftlib.serving.traffic import Shadow, meets_challenger
from ftlib.storage import Place, open_store
from ftlib.workspace import make_cache, user_cache

log = logging.getLogger(__name__)

_FRESH_SECONDS = 10.0
"""A model that answered so recently is not asked again by /health."""


class Reply(NamedTuple):
    """What a caller gets."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = {}


class Question(NamedTuple):
    """One input on its way to a version; nothing asked is a try whether it answers."""

    side: Side
    asked: Input | None


Said = Answered | DataError
Ask = Callable[[Sequence[Question]], Awaitable[list[Any]]]
"""Gives a `Said` for each some time: whoever awaits them is put into a batch with others."""


class Served:
    """A model with its versions, traffic and log. `respond` is called in an event loop, `answer` in a thread."""

    def __init__(self, plan: ServingPlan, tell: Tell, device: str) -> None:
        """Load what is to answer to a device of torch's; returns when it does. Raises ReglageError."""
        self._plan, self._tell, self._device = plan, tell, device
        self._token = _token_of(plan.token_file)
        self._place = Place.parse(plan.registry, plan.endpoint_url)
        self._registry = ModelRegistry(open_store(self._place))
        self._key = PublicKey(Path(plan.key)) if plan.key else None
        self._champion = Following(self._registry, plan.name, plan.which, self._load, tell)
        self._challenger = self._challenging()
        self._shadow: Shadow[tuple[Input, float]] | None = None
        if plan.shadow and self._challenger:
            self._shadow = Shadow(self._ask_in_shadow)
        self._answers = self._labels = None
        if plan.log:
            store = open_store(Place.parse(plan.log, plan.endpoint_url))
            self._answers = LogWriter(store, ANSWERS, plan.log_rows, plan.log_seconds)
            self._labels = LogWriter(store, LABELS, plan.log_rows, plan.log_seconds)
        self._counts = Counter[str]()
        self._answered_at = time.monotonic()
        followed = [one for one in (self._champion, self._challenger) if one]
        self._poller = Poller(followed, plan.poll_seconds)

    def _load(self, version: Version) -> LoadedVersion:
        """Pull a version, or find it pulled and whole, load it, and hear a first answer."""
        cache = make_cache(user_cache()) / "versions"
        folder = cache / version.manifest
        self._registry.pull(version, folder, self._key)
        plan = self._plan
        bases = Bases(lambda spec: self._registry.folder_of(spec, cache), tuple(map(Path, plan.bases)))
        loaded = LoadedVersion(folder, bases, plan.max_new_tokens, plan.num_beams, plan.task, self._device)
        loaded.warm()
        return loaded

    def _challenging(self) -> Following | None:
        """Return the challenger; one that does not load leaves everything to the champion."""
        plan = self._plan
        if plan.challenger is None:
            return None
        try:
            return Following(self._registry, plan.name, plan.challenger, self._load, self._tell)
        except ReglageError as error:
            self._tell(f"challenger {plan.name}@{plan.challenger}: {error}; the champion answers everything")
            return None

    def close(self) -> None:
        """End the polling, and write what the log holds in memory."""
        self._poller.close()
        for writer in (self._answers, self._labels):
            if writer:
                writer.close()

    def most_bytes(self) -> int:
        """Return how long a request's body may be."""
        return self._plan.most_bytes

    async def respond(self, method: str, path: str, authorization: str, body: bytes, ask: Ask) -> Reply:
        """Answer one request. Never raises but for a cancelled caller."""
        try:
            return await self._routed(method, path, authorization, body, ask)
        except DataError as error:
            self._counts["refused"] += 1
            return refusal(422, error)
        except Exception:
            self._counts["failed"] += 1
            log.exception("%s %s failed", method, path)
            return refusal(500, ReglageError("the server failed at this request; its log says why"))

    async def _routed(self, method: str, path: str, authorization: str, body: bytes, ask: Ask) -> Reply:
        """Answer by path and method, all but /health only to who shows the token."""
        routes = {"/predict": "POST", "/feedback": "POST", "/version": "GET", "/health": "GET"}
        if path not in routes:
            return refusal(404, DataError(f"{path[:60]!r} is not here; there are {', '.join(routes)}"))
        if method != routes[path]:
            error = DataError(f"{path}: got {method}, allowed is {routes[path]}; use that")
            return refusal(405, error)._replace(headers={"Allow": routes[path]})
        if path == "/health":
            return await self._health(ask)
        if not self._lets_in(authorization):
            self._counts["unauthorized"] += 1
            error = DataError("no valid token; send the header Authorization: Bearer <token>")
            return refusal(401, error)._replace(headers={"WWW-Authenticate": "Bearer"})
        if path == "/version":
            return Reply(200, self._version())
        if path == "/feedback":
            return self._feedback(body)
        return await self._predict(body, ask)

    def _lets_in(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = authorization.partition(" ")
        digest = hashlib.sha256(shown.strip().encode(errors="replace")).digest()  # of one length, whatever was shown
        return hmac.compare_digest(digest, self._token) and scheme.lower() == "bearer"

    async def _predict(self, body: bytes, ask: Ask) -> Reply:
        """Ask each input's side. Raises DataError, which names the input, where one is refused."""
        arrived = time.monotonic()
        champion = self._champion.side
        inputs = inputs_of(body_of(body), champion.loaded.asks, self._plan.most_inputs)
        self._counts["requests"] += 1
        sides = [self._side(champion, one) for one in inputs]
        said: list[Said] = await ask([Question(side, one) for side, one in zip(sides, inputs, strict=True)])
        for number, one in enumerate(said):
            if isinstance(one, DataError):
                raise DataError(f"inputs[{number}]: {one}")
        seconds = time.monotonic() - arrived
        answers = [
            self._kept(one, side, cast("Answered", found), "answered", seconds)
            for one, side, found in zip(inputs, sides, said, strict=True)
        ]
        if self._shadow:
            for one in inputs:
                self._shadow.put((one, time.monotonic()))
        self._counts["answers"] += len(answers)
        self._answered_at = time.monotonic()
        return Reply(
            200,
            {
                "name": self._plan.name,
                "predictions": answers,
                "request_ids": [one.request for one in inputs],
                "versions": [side.version.version for side in sides],
            },
        )

    def _side(self, champion: Side, asked: Input) -> Side:
        challenger = self._challenger
        if challenger and self._plan.share and meets_challenger(asked.request, self._plan.share):
            self._counts["challenged"] += 1
            return challenger.side
        return champion

    def _kept(self, asked: Input, side: Side, answered: Answered, traffic: Traffic, seconds: float) -> dict[str, Any]:
        """Return an answer as `reglage predict --json` prints it, and log it."""
        answer = answered.prediction.model_dump(mode="json")
        if "file" in answer:  # a path of this machine
            answer["file"] = asked.request
        if self._answers and not isinstance(answered.prediction, Unasked):
            inputs = self._plan.log_inputs
            self._answers.append(live_answer(asked, side, answered, traffic, inputs, answer, seconds))
        return answer

    def _feedback(self, body: bytes) -> Reply:
        late = label_of(body_of(body), self._labels_told())
        if self._labels is None:
            return refusal(404, DataError("this server keeps no log to join it with; start it with --log"))
        self._labels.append(late)
        self._counts["feedback"] += 1
        return Reply(202, {"taken": late.model_dump(mode="json", exclude_none=True)})

    def _labels_told(self) -> tuple[str, ...]:
        """Return the labels of all versions that this server has asked; none where one of them has none of its own.

        Feedback is late: what it is about may have been said by the challenger, or by a version before this one.
        """
        told = [labels for one in (self._champion, self._challenger) if one for labels in one.vocabularies]
        return tuple(dict.fromkeys(label for labels in told for label in labels)) if all(told) else ()

    async def _health(self, ask: Ask) -> Reply:
        """Say whether the model answers; of a log nothing but what was lost, since anybody may ask this."""
        if time.monotonic() - self._answered_at > _FRESH_SECONDS:
            try:
                await ask([Question(self._champion.side, None)])
            except Exception:
                log.exception("the model does not answer")
                return Reply(503, {"ready": False, "log_dropped": self._dropped()})
            self._answered_at = time.monotonic()
        return Reply(200, {"ready": True, "log_dropped": self._dropped()})

    def _dropped(self) -> int:
        return sum(writer.state().dropped for writer in (self._answers, self._labels) if writer)

    def _version(self) -> dict[str, Any]:
        def state(writer: LogWriter | None) -> dict[str, Any] | None:
            return writer.state().model_dump(mode="json") if writer else None

        return {
            **self._champion.said,
            "challenger": self._challenger.said if self._challenger else None,
            "traffic": {
                "share": self._plan.share,
                "shadow": self._plan.shadow,
                "shadow_left_out": self._shadow.left_out if self._shadow else 0,
            },
            "poll_seconds": self._plan.poll_seconds,
            "counts": dict(sorted(self._counts.items())),
            "log": state(self._answers),
            "feedback": state(self._labels),
        }

    def answer(self, questions: Sequence[Question]) -> list[Any]:
        """Return a `Said` for each question; those of one side share its batches. Called from one thread."""
        said: dict[int, Any] = {}
        for manifest in dict.fromkeys(question.side.version.manifest for question in questions):
            mine = [i for i, question in enumerate(questions) if question.side.version.manifest == manifest]
            loaded = questions[mine[0]].side.loaded
            asked = [(i, one) for i in mine if (one := questions[i].asked) is not None]
            if len(asked) < len(mine):
                loaded.warm()
                said.update(dict.fromkeys(mine, None))
            said.update(zip((i for i, _ in asked), self._said(loaded, [one for _, one in asked]), strict=True))
        return [said[i] for i in range(len(questions))]

    def _said(self, loaded: LoadedVersion, inputs: Sequence[Input]) -> list[Said]:
        """Ask a version; where one input is refused the others are asked without it."""
        try:
            with contextlib.ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory()) if loaded.asks == "image" else ""
                texts = [one.text if one.image is None else _file(folder, i, one.image) for i, one in enumerate(inputs)]
                return list(loaded.answered(texts, self._plan.batch_size))
        except DataError as error:
            if len(inputs) == 1:
                return [error]
        return [self._said(loaded, [one])[0] for one in inputs]

    def _ask_in_shadow(self, asked: list[tuple[Input, float]]) -> None:
        assert self._challenger is not None
        side = self._challenger.side
        try:
            found = self._said(side.loaded, [one for one, _ in asked])
        except Exception:
            self._counts["shadow_failed"] += len(asked)
            log.exception("the shadow failed")
            return
        for (one, arrived), answered in zip(asked, found, strict=True):
            if not isinstance(answered, DataError):
                self._counts["shadow"] += 1
                self._kept(one, side, answered, "shadow", time.monotonic() - arrived)


def served(spec: str, tell: Tell, device: str) -> Served:
    """Make it from a plan's JSON."""
    return Served(ServingPlan.model_validate_json(spec), tell, device)


def refusal(status: int, error: ReglageError) -> Reply:
    """Say in one line why not."""
    return Reply(status, {"error": {"kind": type(error).__name__, "message": str(error)}})


def _file(folder: str, number: int, data: bytes) -> str:
    path = Path(folder, f"{number}.image")
    path.write_bytes(data)
    return str(path)


def _token_of(file: str | None) -> bytes | None:
    """Return the digest of the token in a file. Raises RecipeError for a file that holds none."""
    if file is None:
        return None
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise RecipeError(f"--token-file: {file} cannot be read: {error}; write a token into it") from error
    if len(token) < 16 or token.split() != [token]:
        raise RecipeError(f"--token-file: {file} holds no token: at least 16 characters, no spaces, one line")
    return hashlib.sha256(token.encode()).digest()
