"""The application as a cluster has it: behind Ray Serve's own proxy, which hands its replicas what comes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from ftlib.on_ray.session import session
from ftlib.training.compute import Compute

pytestmark = pytest.mark.timeout(300)


class Squares:
    """Answers numbers with their squares."""

    def __init__(self, spec: str, tell: Callable[[str], None], device: str) -> None:
        self.offset, self.device = json.loads(spec)["offset"], device

    def most_bytes(self) -> int:
        return 1000

    async def respond(self, method: str, path: str, authorization: str, body: bytes, ask: Any) -> Any:
        said = await ask(json.loads(body))
        return 200, {"said": said, "asked": [method, path, authorization]}, {"X-By": "squares"}

    def answer(self, questions: Sequence[int]) -> list[int]:
        return [one * one + self.offset for one in questions]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("use_gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_a_replica_hands_on_the_device_that_was_reserved_for_it(use_gpu: bool, device: str) -> None:
    from ftlib.on_ray.serving import _Replica, application

    given = {"factory": f"{__name__}:Squares", "spec": {"offset": 1}, "use_gpu": use_gpu}
    options = application(given)._bound_deployment.ray_actor_options
    assert options["num_gpus"] == use_gpu
    assert _Replica(given)._served.device == device  # type: ignore[attr-defined]


@pytest.mark.slow
def test_it_answers_behind_a_proxy() -> None:
    from ray import serve

    from ftlib.on_ray.serving import NAME, application

    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with session(Compute(workers=1, threads=1)):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
            given = {"factory": f"{__name__}:Squares", "spec": {"offset": 1}}
            serve.run(application(given), name=NAME, route_prefix="/")
            url = f"http://127.0.0.1:{port}/any"
            said = httpx.post(url, json=[2, 3], headers={"Authorization": "me"}, trust_env=False, timeout=60)
            assert said.json() == {"said": [5, 10], "asked": ["POST", "/any", "me"]}
            assert said.headers["x-by"] == "squares"
            assert httpx.post(url, content=b" " * 1001, trust_env=False, timeout=60).status_code == 413
        finally:
            serve.shutdown()
