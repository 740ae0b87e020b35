"""Two tokenizers compared by token string: which rows of an embedding mean the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from ftlib.errors import ModelError


def new_tokens(before: Path, after: Path) -> frozenset[int]:
    """Return the ids that only the second folder's tokenizer has.

    Raises ModelError if a token of the first has another id in the second, or is gone: rows would be mixed that mean
    different tokens, and the result would look fine and talk nonsense.
    """
    old, new = _vocabulary(before), _vocabulary(after)
    moved = sorted((id, token) for token, id in old.items() if new.get(token) != id)
    if moved:
        id, token = moved[0]
        now = f"has id {new[token]}" if token in new else "is gone"
        raise ModelError(
            f"{len(moved)} tokens of {before} are not at their place in {after}, first {token!r} with id {id}, which "
            f"{now} there; only tokens added at the end can be merged"
        )
    return frozenset(new[token] for token in new.keys() - old.keys())


def _vocabulary(folder: Path) -> dict[str, int]:
    """Read token strings and ids from `tokenizer.json`, or from the older files."""
    found: dict[str, int] = {}
    if (folder / "tokenizer.json").is_file():
        content = _json(folder / "tokenizer.json")
        model = content["model"]["vocab"]
        # Unigram models hold a list of (token, score), all others a map.
        found = dict(model) if isinstance(model, dict) else {entry[0]: i for i, entry in enumerate(model)}
        found |= {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    elif (folder / "vocab.json").is_file():
        found = _json(folder / "vocab.json")
    elif (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        found = {token: i for i, token in enumerate(lines)}
    if (folder / "added_tokens.json").is_file():
        found |= _json(folder / "added_tokens.json")
    if not found:
        raise ModelError(
            f"{folder} has no tokenizer.json, vocab.json or vocab.txt; its embeddings have another number of rows, and "
            "which of them mean the same can be told by the tokens alone"
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(path.read_bytes()))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
