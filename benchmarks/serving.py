"""`reglage serve` beside transformers' pipeline behind FastAPI, on the same cores: `python -m benchmarks.serving`.

All answer the same published weights with as many threads as there are cores, in rounds that take turns, to clients
that run on the same cores too; whoever is not asked idles. Ours has its defaults, checks a token and writes its log
meanwhile. The pipeline is called in FastAPI's threads, and in its event loop: ratios are against the one that answers
more. Last, an alias moves under load: seconds until an answer is the new version's, and requests that failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import (
    can_record,
    fresh_process,
    interleaved,
    middle,
    print_result,
    print_table,
    same_for_all,
    spread,
)
from ftlib.registry import ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.storage import LocalStore
from ftlib.testing import tiny_recipe, tiny_rows
from ftlib.testing.models import tiny_tokenizer

TARGETS = {"requests_per_second": 1.5}
SIZES = {"tiny": (2, 32), "minilm": (6, 384)}
"""Layers and hidden size; the second is all-MiniLM-L6's."""
NAME, ALIAS = "tiny-router", "champion"
PLAIN, OURS = ("pipeline in threads", "pipeline in the loop"), "reglage serve"


class Place(NamedTuple):
    """Where the versions are."""

    folder: Path
    registry: Path

    def move(self, version: int) -> None:
        """Let the alias mean a version."""
        log = AliasLog(LocalStore(self.registry), NAME, ALIAS)
        newest = log.newest()
        log.move(version, newest.sequence if newest else None, "benchmark", "measured")


@click.command()
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), default=list(SIZES), show_default=True)
@click.option("--clients", multiple=True, type=int, default=[8, 32], show_default=True)
@click.option("--seconds", type=float, default=8.0, show_default=True, help="Of every measurement.")
@click.option("--repetitions", type=int, default=3, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps what is published for the next time.")
@can_record
def main(
    sizes: tuple[str, ...], clients: tuple[int, ...], seconds: float, repetitions: int, folder: Path | None
) -> None:
    """Measure requests per second, latency, and what an alias's move costs."""
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            below = (folder or Path(temporary)).absolute() / size
            place = Place(below, below / "registry")
            if not place.registry.exists():
                published(below, *SIZES[size])
            ratios[size] = measured(place, size, clients, seconds, repetitions)
    settings = {"clients": list(clients), "seconds": seconds, "repetitions": repetitions, "targets": TARGETS}
    print_result("serving", ratios, {**settings, **describe_machine()})


def published(folder: Path, layers: int, hidden: int) -> None:
    """Publish two versions of a model of a size."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    recipe = tiny_recipe(folder)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32 or 1,
        intermediate_size=4 * hidden,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder / "model")
    for rate in ("1e-3", "2e-3"):
        recipe.write_text(re.sub(r"learning_rate: \S+}", f"learning_rate: {rate}}}", recipe.read_text()))
        done = reglage(folder, "run", str(recipe), "--work", str(folder / "work"))
        assert done.wait() == 0, f"the recipe in {folder} failed"


def measured(
    place: Place, size: str, clients: tuple[int, ...], seconds: float, repetitions: int
) -> dict[str, dict[str, float]]:
    """Return ours over theirs for each number of clients."""
    version = ModelRegistry(LocalStore(place.registry)).version(NAME, 1)
    ModelRegistry(LocalStore(place.registry)).pull(version, place.folder / "pulled")
    place.move(1)
    with contextlib.ExitStack() as running:
        servers = {name: running.enter_context(plain(place, name.split()[-1])) for name in PLAIN}
        servers[OURS] = running.enter_context(ours(place))

        def rate(name: str, repetition: int) -> dict[str, Any]:
            return {str(count): asked(*servers[name], count, seconds) for count in clients}

        found = interleaved((*PLAIN, OURS), repetitions, rate)
        moves = moved(place, *servers[OURS])
    ratios: dict[str, dict[str, float]] = {}
    rows: list[list[str]] = []
    for count in map(str, clients):
        of = {name: [one[count] for one in outcomes] for name, outcomes in found.items()}
        keys = ("requests_per_second", "p50_ms", "p99_ms")
        values = {name: {key: middle(outcomes, key) for key in keys} for name, outcomes in of.items()}
        rows += [
            [f"{name}, {count} clients", *(f"{values[name][key]:.1f}" for key in keys), spread(of[name], keys[0])]
            for name in values
        ]
        best = max(PLAIN, key=lambda name: values[name]["requests_per_second"])
        ratios[count] = {key: round(values[OURS][key] / values[best][key], 2) for key in keys}
        ratios[count]["failed"] = sum(one["failed"] for outcomes in of.values() for one in outcomes)
    print_table(f"{size}, load {os.getloadavg()[0]:.1f}", ("", "requests/s", "p50 ms", "p99 ms", "rounds"), rows)
    return {**ratios, "alias_move": moves}


def moved(place: Place, port: int, token: str) -> dict[str, float]:
    """Move the alias thrice under eight clients' load; return seconds until new answers, and requests that failed."""
    taken: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        under = pool.submit(asked, port, token, 8, 20.0)
        for version in (2, 1, 2):
            time.sleep(2.0)
            place.move(version)
            begun = time.monotonic()
            while answering(port, token) != version:
                time.sleep(0.05)
            taken.append(time.monotonic() - begun)
        outcome = under.result()
    requests = round(outcome["requests_per_second"] * 20.0) + outcome["failed"]
    seconds = {"seconds_least": round(min(taken), 2), "seconds_most": round(max(taken), 2)}
    return {**seconds, "requests": requests, "failed": outcome["failed"]}


def answering(port: int, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{port}/predict"
    return httpx.post(url, json={"inputs": ["hello"]}, headers=headers, trust_env=False).json()["versions"][0]


def asked(port: int, token: str, clients: int, seconds: float) -> dict[str, Any]:
    texts = [str(row["text"]) for row in tiny_rows(64, seed=3)]
    task = {"port": port, "token": token, "clients": clients, "seconds": seconds, "warm_seconds": 2.0, "texts": texts}
    return fresh_process("benchmarks.serving_load", task, threads=1)


@contextlib.contextmanager
def plain(place: Place, where: str) -> Generator[tuple[int, str]]:
    port = free_port()
    given = [str(place.folder / "pulled"), str(port), str(cores()), where]
    words = [sys.executable, "-m", "benchmarks.serving_plain", *given]
    with subprocess.Popen(words, env={**os.environ, **same_for_all(cores())}) as process:
        yield from until_stopped(process, port, "/docs", "")


@contextlib.contextmanager
def ours(place: Place) -> Generator[tuple[int, str]]:
    port = free_port()
    words = ["serve", f"{NAME}@{ALIAS}", "--registry", str(place.registry), "--home", str(place.folder)]
    with reglage(place.folder, *words, "--port", str(port), "--log", str(place.folder / "log")) as process:
        token = place.folder / ".reglage" / "serve.token"
        yield from until_stopped(process, port, "/health", token)


def reglage(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **same_for_all(cores()), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.command_line.main", *words], env=environment, stdout=subprocess.DEVNULL
    )


def until_stopped(
    process: subprocess.Popen[bytes], port: int, path: str, token: Path | str
) -> Generator[tuple[int, str]]:
    """Wait until a server answers, give its port and token, and stop it."""
    try:
        while True:
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200:
                    break
            time.sleep(0.2)
        yield port, token.read_text().strip() if isinstance(token, Path) else token
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


if __name__ == "__main__":
    main()
