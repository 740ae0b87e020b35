"""Model folders without torch: finding, identifying, reading config, labels and tensor bytes. No code in one runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ftlib.artifacts import FoundModel
from ftlib.config import user_path
from ftlib.errors import ModelError
from ftlib.fingerprint import digest, file_digest
from ftlib.recipe_parts import ModelRef

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
    "chat_template.jinja",
)
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", *TOKENIZER_FILES]

ADAPTER_CONFIG = "adapter_config.json"

# transformers >= 5.3 ignores these, older ones ran code from them (CVE-2026-4372): nothing honest needs them.
_REFUSED_CONFIG_KEYS = ("_attn_implementation_internal", "auto_map")


def find_model(ref: ModelRef) -> FoundModel:
    """Find the base model's folder and identify its bytes.

    Raises ModelError if it is missing, has no safetensors, no config or no tokenizer, or asks for its own code.
    """
    folder = _locate(ref)
    config = read_config(folder)
    for key in _REFUSED_CONFIG_KEYS:
        if key in config:
            raise ModelError(
                f"{folder}/config.json has {key!r}, which makes a loader run the folder's own code; remove it"
            )
    files = weight_files(folder)
    tokenizer = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not set(tokenizer) - {
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    }:
        raise ModelError(
            f"{folder} has no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}: save it there as well"
        )
    return FoundModel(
        name=ref.path if ref.revision is None else f"{ref.path}@{ref.revision}",
        uri=str(folder),
        weights=digest([[path.name, file_digest(path)] for path in [folder / "config.json", *files]]),
        tokenizer=digest([[name, file_digest(folder / name)] for name in tokenizer]),
    )


def _locate(ref: ModelRef) -> Path:
    if ref.path.startswith("package:"):
        return package_folder(ref.path)
    folder = user_path(ref.path)
    if folder.is_dir():
        return folder.absolute()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", ref.path) or ref.path.startswith("."):
        raise ModelError(
            f"model folder {ref.path!r} does not exist; give a folder, package:<module>/<folder> or a hub name"
        )
    return _from_hub(ref)


def package_folder(path: str) -> Path:
    """Return the folder that `package:<module>/<folder>` names. Raises ModelError if there is none."""
    module, _, inside = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {path!r}: there is no installed package {module!r}; install it or name a folder")
    if ".." in PurePosixPath(inside).parts:
        raise ModelError(f"model {path!r}: the folder must lie inside the package")
    folder = Path(spec.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise ModelError(f"model {path!r}: package {module!r} has no folder {inside!r}")
    return folder


def _from_hub(ref: ModelRef) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if ref.revision is None or not re.fullmatch(r"[0-9a-f]{40}", ref.revision):
        raise ModelError(
            f"model {ref.path!r} is no folder here, so it comes from the hub, where `revision` must be a commit hash "
            f"of 40 hex digits; got {ref.revision!r}"
        )
    try:
        return Path(snapshot_download(ref.path, revision=ref.revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model {ref.path!r}@{ref.revision} is no folder here and the hub did not give it: {reason}"
        ) from error


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds a peft adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json. Raises ModelError if it is absent or not a JSON object."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder} has no config.json; it is not a transformers model folder") from None
    except ValueError as error:
        raise ModelError(f"{folder}/config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder}/config.json is not a JSON object")
    return cast("dict[str, Any]", config)


def labels_of(folder: Path) -> tuple[str, ...]:
    """Return a classifier's labels in the order of its logits; empty where its config names none."""
    own = read_config(folder).get("id2label") or {}
    return tuple(own[key] for key in sorted(own, key=int))


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files, by the index if there is one.

    Raises ModelError if there is none, if one is missing, or if the index points outside the folder: transformers
    follows such a path.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if (folder / "model.safetensors").is_file():
            return [folder / "model.safetensors"]
        pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        hint = f"; {pickles} is a pickle and is never opened: convert it to safetensors" if pickles else ""
        raise ModelError(f"{folder} has no model.safetensors{hint}")
    try:
        names = sorted(set(cast("dict[str, str]", json.loads(index.read_bytes())["weight_map"]).values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of safetensors files: {error!r}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{index} names {name!r}, which is not a file in that folder")
    return [folder / name for name in names]


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the folder's tensors: name, dtype, shape and bytes, in order of name.

    The same for any shard layout, so a re-sharded or re-saved model keeps its identity.
    """
    return digest_of_tensors(
        (name, dtype, shape, hashlib.sha256(data).hexdigest())
        for path in weight_files(folder)
        for name, dtype, shape, data in read_tensors(path)
    )


def digest_of_tensors(tensors: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """Return the digest of (name, dtype, shape, sha256 of the bytes), in any order."""
    lines = sorted((name, f"{name} {dtype} {list(shape)} {sha256}\n") for name, dtype, shape, sha256 in tensors)
    return hashlib.sha256("".join(line for _, line in lines).encode()).hexdigest()


def read_tensors(path: Path) -> Iterator[tuple[str, str, list[int], memoryview]]:
    """Yield (name, dtype, shape, bytes) of a safetensors file, one tensor in memory at a time.

    Format: https://github.com/huggingface/safetensors#format. Raises ModelError for a header that is not one.
    """
    with path.open("rb") as stream:
        try:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > 100_000_000:
                raise ValueError(f"header of {size} bytes")
            header: dict[str, Any] = json.loads(stream.read(size))
        except (struct.error, ValueError) as error:
            raise ModelError(f"{path} is not a safetensors file: {error}") from error
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
            first, last = entry["data_offsets"]
            stream.seek(8 + size + first)
            data = stream.read(last - first)
            if len(data) != last - first:
                raise ModelError(f"{path} is cut off inside tensor {name!r}")
            yield name, entry["dtype"], entry["shape"], memoryview(data)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files byte for byte: a re-saved tokenizer is another tokenizer."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
