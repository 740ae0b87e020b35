"""An endpoint that speaks OpenAI's chat completions, played on the loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Stub(ThreadingHTTPServer):
    """An endpoint that says what a function makes of a question, and remembers what it was asked."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.asked, self.keys = say, list[dict[str, Any]](), list[str | None]()
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        said = self.server.say(body["messages"][0]["content"])
        code, reply = said if isinstance(said, tuple) else (200, said)
        if isinstance(reply, str):
            usage = {"prompt_tokens": 10, "completion_tokens": 1}
            reply = json.dumps({"choices": [{"message": {"content": reply}}], "usage": usage}).encode()
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked has gone
            self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(say: Callable[[str], Any]) -> Iterator[Stub]:
    """Run an endpoint for as long as the block lasts."""
    stub = Stub(say)
    threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()


def answers(question: str) -> tuple[str, str]:
    first = question.split("[Answer A]\n")[1].split("\n\n[Answer B]")[0]
    return first, question.split("[Answer B]\n")[1].split("\n\n[End]")[0]


def longer(question: str) -> str:
    first, second = map(len, answers(question))
    return "C" if first == second else "A" if first > second else "B"
