"""The JSON files of a model's folder: read as every loader does, and refused where one makes a loader run code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import cast

from ftlib.errors import ModelError

CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    CHAT_TEMPLATE,
)

# transformers >= 5.3 ignores the second, older ones ran code from it (CVE-2026-4372): nothing honest needs either.
_RUNS_CODE = ("auto_map", "_attn_implementation_internal", "custom_pipelines")
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Where a value `owner/name` makes transformers fetch and run kernels of the Hub."""


def check_no_code(folder: Path) -> None:
    """Raise ModelError if any JSON file of a folder makes a loader run the folder's own code, or code of the Hub."""
    for path in sorted(folder.glob("*.json")):
        # A vocabulary may hold any word as a key; transformers looks for code in none of these files.
        if path.name in ("tokenizer.json", "vocab.json", "added_tokens.json") or path.name.endswith(".index.json"):
            continue
        try:
            content = read_json(path)
        except ModelError:
            continue  # no loader reads it either; who needs the file says so
        if key := next(_asks_for_code(content), None):
            raise ModelError(f"{path} has {key}, which makes a loader run the folder's own code; remove it")


def _asks_for_code(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, member in cast("dict[str, object]", value).items():
            if key in _RUNS_CODE and member not in (None, {}):
                yield repr(key)
            elif key in _KERNELS and "/" in str(member):
                yield f"{key!r}: {member!r}"
            yield from _asks_for_code(member)
    elif isinstance(value, list):
        yield from chain.from_iterable(map(_asks_for_code, cast("list[object]", value)))


def read_json(path: Path) -> object:
    """Read a JSON file of a model folder, as UTF-8, as every loader does. Raises ModelError if it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; give a folder whose files can be read") from error
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason, remedy = str(error) if data else "it is empty", "copy or download it again"
        if data.startswith(b"version https://git-lfs"):
            reason, remedy = "it is a git-lfs pointer", "run `git lfs pull` in its checkout"
        raise ModelError(f"{path} is not JSON: {reason}; {remedy}") from error
