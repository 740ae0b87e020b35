"""Probe a store with a race: many writers create one object, and exactly one of them may win."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from ftlib.errors import StorageError
from ftlib.storage.store import Store


def probe(store: Store, writers: int = 16) -> None:
    """Let writers race to create one object. Raises StorageError unless exactly one wins and its bytes are there.

    Servers that ignore or race `If-None-Match` exist (radosgw on sqlite let 16 of 16 win); on them two publishers
    would both get the same version number.
    """
    path = f"probes/{uuid.uuid4().hex}.json"
    tokens = [json.dumps({"probe": n, "nonce": uuid.uuid4().hex}).encode() for n in range(writers)]
    together = threading.Barrier(writers)

    def create(token: bytes) -> bool:
        together.wait()
        return store.create(path, token)

    with ThreadPoolExecutor(writers) as pool:
        won = [token for token, winner in zip(tokens, pool.map(create, tokens), strict=True) if winner]
    stored = store.read(path)
    store.discard(path)
    if len(won) > 1:
        raise StorageError(
            f"{store.uri} let {len(won)} of {writers} writers create the same object: it ignores or races conditional "
            "writes, and versions could be lost there; use a store that honours If-None-Match, or a folder"
        )
    # No winner at all is fine if one of us is there: its reply was lost. Another's bytes never are.
    if stored not in (won or tokens):
        raise StorageError(f"{store.uri} does not give back what was just created there; use another store")
