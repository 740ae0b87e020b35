"""Two models' tokens and labels compared by their strings: which rows of their tensors mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ftlib.errors import ModelError
from ftlib.models.folder import labels_of, read_json

_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "added_tokens.json")


def check_labels(before: Path, after: Path, names: tuple[str, str]) -> None:
    """Raise ModelError if both folders name their labels, and not the same in the same order."""
    ours, theirs = _named_labels(before), _named_labels(after)
    if ours and theirs:
        check_same_labels(ours, theirs, names)


def check_same_labels(ours: Sequence[str], theirs: Sequence[str], names: tuple[str, str]) -> None:
    """Raise ModelError if two models, which messages call by `names`, have other labels or another order of them."""
    if ours != theirs:
        raise ModelError(
            f"{names[0]!r} and {names[1]!r} have different labels, or another order: {', '.join(ours)} against "
            f"{', '.join(theirs)}; rows of their heads mean different things: "
            "merge models that were trained for the same labels"
        )


def _named_labels(folder: Path) -> tuple[str, ...]:
    """Return the labels, but none where they are only what transformers calls labels without a name."""
    labels = labels_of(folder)
    return () if labels == tuple(f"LABEL_{i}" for i in range(len(labels))) else labels


def has_vocabulary(folder: Path) -> bool:
    """Say whether a folder's tokens can be read."""
    return any((folder / name).is_file() for name in _FILES)


def new_tokens(before: Path, after: Path, names: tuple[str, str]) -> frozenset[int]:
    """Return the ids that only the second folder's tokenizer has; `names` is how messages call the two.

    Raises ModelError if a token of the first has another id in the second, or is gone: rows would be mixed that mean
    different tokens, and the result would look fine and talk nonsense.
    """
    if all(_bytes(before / name) == _bytes(after / name) for name in _FILES) and has_vocabulary(before):
        return frozenset()
    old, new = _vocabulary(before, names[0]), _vocabulary(after, names[1])
    moved = sorted((id, token) for token, id in old.items() if new.get(token) != id)
    if moved:
        id, token = moved[0]
        now = f"has id {new[token]}" if token in new else "is gone"
        raise ModelError(
            f"{len(moved)} tokens of {names[0]!r} are not at their place in {names[1]!r}, first {token!r} with id "
            f"{id}, which {now} there; only tokens added at the end can be merged"
        )
    return frozenset(new[token] for token in new.keys() - old.keys())


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _vocabulary(folder: Path, name: str) -> dict[str, int]:
    """Read token strings and ids from `tokenizer.json`, or from the older files."""
    try:
        ids = _tokens(folder)
        sound = all(type(id) is int for id in ids.values())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise ModelError(f"{name!r} has damaged tokenizer files ({error!r}); save its tokenizer again") from error
    if not sound:
        raise ModelError(f"{name!r} has damaged tokenizer files (an id is no number); save its tokenizer again")
    if not ids:
        raise ModelError(
            f"{name!r} has no tokenizer.json, vocab.json or vocab.txt; its embeddings have another number of rows, and "
            "which of them mean the same can be told by the tokens alone"
        )
    return ids


def _tokens(folder: Path) -> dict[str, int]:
    ids: dict[str, int] = {}
    if (folder / "tokenizer.json").is_file():
        content = _json(folder / "tokenizer.json")
        model = content["model"]["vocab"]
        # Unigram models hold a list of (token, score), all others a map.
        ids = dict(model) if isinstance(model, dict) else {entry[0]: i for i, entry in enumerate(model)}
        ids |= {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    elif (folder / "vocab.json").is_file():
        ids = dict(_json(folder / "vocab.json"))
    elif (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        ids = {token: i for i, token in enumerate(lines)}
    if (folder / "added_tokens.json").is_file():
        ids |= _json(folder / "added_tokens.json")
    return ids


def _json(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", read_json(path))
