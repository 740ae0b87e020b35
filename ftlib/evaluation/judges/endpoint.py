"""A language model behind an endpoint that speaks OpenAI's chat completions, as a judge.

A key comes from the environment alone, goes to the host that is named and to no other, and is in no message.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from typing_extensions import override

from ftlib.errors import RecipeError, TransientError, first_line
from ftlib.evaluation.judges.base import AsksInWords, Cost, Pair, Verdict, read_reply
from ftlib.urls import HIDDEN, secret_in

_LARGEST = 1 << 20
"""Bytes of a reply."""
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504}


def _plain_url(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("a URL begins with http:// or https:// and names a host, as http://127.0.0.1:8000/v1")
    if secret := secret_in(url):
        raise ValueError(f"holds {secret}; name the variable of the environment that holds the key in key_env")
    return url


class _Reply(NamedTuple):
    text: str
    tokens_in: int
    tokens_out: int


class ByEndpoint(AsksInWords):
    """A model that another program serves: vLLM, llama.cpp, Ollama, or a vendor. Temperature 0."""

    unsaid: ClassVar[frozenset[str]] = frozenset({"key_env", "parallel", "time_limit", "attempts"})

    kind: Literal["endpoint"] = "endpoint"
    url: Annotated[str, AfterValidator(_plain_url)]
    """Where it is, up to `/chat/completions`: http://127.0.0.1:8000/v1."""
    model: str
    """The model's name there. What is served under it may change unseen: name one that does not."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the key; unset: none is sent."""
    parallel: int = Field(default=4, ge=1, le=64)
    """Questions at once."""
    time_limit: float = Field(default=60.0, gt=0.0)
    """Seconds that one call may take."""
    attempts: int = Field(default=3, ge=1)
    """How often a call is made that finds the endpoint busy or away."""

    @override
    def misfits(self) -> Sequence[str]:
        """Return why its key cannot be sent, in at most one line; nobody is asked."""
        try:
            self._key()
        except RecipeError as error:
            return (str(error),)
        return ()

    @override
    def verdicts(self, pairs: Sequence[Pair]) -> tuple[list[Verdict], Cost]:
        """Return a verdict for each pair.

        Raises RecipeError for an endpoint that refuses or is none, TransientError for one that is away.
        """
        begun, key = time.monotonic(), self._key()
        with ThreadPoolExecutor(self.parallel) as threads:
            calls = [threads.submit(self._ask, self.question(pair), key) for pair in pairs]
            try:
                replies = [call.result() for call in calls]
            except BaseException:
                threads.shutdown(wait=True, cancel_futures=True)
                raise
        cost = Cost(
            calls=len(replies),
            tokens_in=sum(reply.tokens_in for reply in replies),
            tokens_out=sum(reply.tokens_out for reply in replies),
            seconds=time.monotonic() - begun,
        )
        return [read_reply(reply.text) for reply in replies], cost

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        if not (key := os.environ.get(self.key_env, "").strip()):
            raise RecipeError(f"judge {self.url}: the environment has no {self.key_env}, which holds its key; set it")
        if urlsplit(self.url).scheme == "http" and not _is_here(str(urlsplit(self.url).hostname)):
            raise RecipeError(f"judge {self.url}: a key would travel in plain text over http; use https")
        return key

    def _ask(self, question: str, key: str | None) -> _Reply:
        """Return a reply, after as many attempts as it takes and may."""
        for attempt in range(1, self.attempts + 1):
            try:
                return self._asked_once(question, key)
            except TransientError as error:
                if attempt == self.attempts:
                    raise TransientError(f"{error}, {attempt} times; start it, or name another judge") from error
                time.sleep(min(0.5 * 2**attempt, 8.0))
        raise AssertionError

    def _asked_once(self, question: str, key: str | None) -> _Reply:
        """Return a reply. Raises TransientError where a later attempt may get one, or else RecipeError."""
        messages = [{"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_new_tokens}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with _OPENER.open(request, timeout=self.time_limit) as response:
                return _read(_whole(response, self.time_limit))
        except urllib.error.HTTPError as error:
            said = _hidden(_body(error), key)
            kind = TransientError if error.code in _BUSY else RecipeError
            raise kind(f"judge {self.url}: it answers {error.code} {error.reason}: {said or 'nothing more'}") from None
        except (urllib.error.URLError, HTTPException, TimeoutError, OSError) as error:
            reason = _hidden(first_line(error), key)
            raise TransientError(f"judge {self.url}: it does not answer ({reason})") from None
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RecipeError(
                f"judge {self.url}: its reply is no chat completion ({type(error).__name__}); give the URL of an "
                "endpoint that speaks OpenAI's chat completions, as http://127.0.0.1:8000/v1"
            ) from None


def _body(error: urllib.error.HTTPError) -> str:
    """Return the first words of a refusal; its connection may end before they are there."""
    with error, suppress(OSError, HTTPException):
        return " ".join(error.read(300).decode(errors="replace").split())
    return ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a key would go to whatever host it names."""

    @override
    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _whole(response: Any, seconds: float) -> bytes:
    """Read a reply within a time and a size, however slowly it drips. Raises TimeoutError, or ValueError."""
    until, read = time.monotonic() + seconds, bytearray()
    while chunk := response.read1(65_536):
        read += chunk
        if len(read) > _LARGEST:
            raise ValueError("too long")
        if time.monotonic() > until:
            raise TimeoutError(f"no whole reply in {seconds:g} s")
    return bytes(read)


def _read(body: bytes) -> _Reply:
    """Return what a chat completion says. Raises ValueError, KeyError, IndexError or TypeError for what is none."""
    said: Any = json.loads(body)
    text, usage = said["choices"][0]["message"]["content"], said.get("usage") or {}
    if not isinstance(text, str | None):
        raise TypeError("content")
    return _Reply(text or "", int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _hidden(text: str, key: str | None) -> str:
    return text.replace(key, HIDDEN) if key else text


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
