"""Clients that ask a server one text each, again and again: `python -m benchmarks.serving_load TASK.json OUTCOME.json`.

They speak HTTP/1.1 by hand over connections that stay open: a client library would take from the server's cores.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


def load(task: dict[str, Any]) -> dict[str, Any]:
    """Return requests per second, milliseconds at the median and the 99th percentile, and requests that failed."""
    return asyncio.run(_load(task))


async def _load(task: dict[str, Any]) -> dict[str, Any]:
    begun = time.perf_counter() + task["warm_seconds"]
    ended = begun + task["seconds"]
    found = await asyncio.gather(*[_client(task, number, ended) for number in range(task["clients"])])
    measured = [one for client in found for one in client if one[0] >= begun]
    seconds = sorted(taken for _, taken, status in measured if status == 200)
    return {
        "requests_per_second": len(seconds) / task["seconds"],
        "p50_ms": 1000 * seconds[len(seconds) // 2],
        "p99_ms": 1000 * seconds[int(len(seconds) * 0.99)],
        "failed": sum(status != 200 for _, _, status in measured),
    }


async def _client(task: dict[str, Any], number: int, ended: float) -> list[tuple[float, float, int]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", task["port"])
    texts: list[str] = task["texts"]
    found: list[tuple[float, float, int]] = []
    while (begun := time.perf_counter()) < ended:
        body = json.dumps({"inputs": [texts[number % len(texts)]]}).encode()
        number += 1
        head = (
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {task['token']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        (length,) = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length.partition(b":")[2]))
        now = time.perf_counter()
        found.append((now, now - begun, int(answer.split(b" ", 2)[1])))
    writer.close()
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(load(json.loads(Path(sys.argv[1]).read_text()))))
