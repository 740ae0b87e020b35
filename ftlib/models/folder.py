"""Model folders without torch: finding, identifying, reading config, labels and tensor bytes. No code in one runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ftlib.config import user_path
from ftlib.errors import ModelError, first_line
from ftlib.fingerprint import digest, file_digest
from ftlib.models.checkpoint import ADAPTER_CONFIG, BASE, FoundModel, model_in
from ftlib.models.json_files import CHAT_TEMPLATE, TOKENIZER_FILES, check_no_code, read_json
from ftlib.models.pipelines import as_one_model
from ftlib.models.reference import ModelRef
from ftlib.models.tensor_files import (
    INDEX,
    PACKED,
    SINGLE,
    TensorFile,
    TensorSpan,
    only_once,
    read_header,
    read_tensors,
)
from ftlib.models.with_diffusers import is_pipeline
from ftlib.storage.node_cache import is_output, local_path
from ftlib.wording import some

IMAGE_PROCESSOR = "preprocessor_config.json"
PROCESSOR_FILES = (*TOKENIZER_FILES, IMAGE_PROCESSOR)
"""What makes a model's inputs of raw values; models of images have no tokenizer, most models of text nothing else."""

GENERATION_CONFIG = "generation_config.json"
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", GENERATION_CONFIG, *PROCESSOR_FILES]

_NOT_ALONE = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", CHAT_TEMPLATE}
"""Files of a tokenizer that are none without others."""


_SAYS_NOTHING_OF_READING = (
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
)


def find_model(ref: ModelRef) -> FoundModel:
    """Find the base model's folder and identify its bytes; a pipeline of diffusers is made one model first.

    Raises ModelError if it is missing or nothing makes its inputs, and what `check_model` and `as_one_model` raise.
    """
    folder = locate(ref)
    if is_pipeline(folder):
        folder = as_one_model(folder)
    check_model(folder)
    check_processor(folder)
    return FoundModel(
        name=ref.path if ref.revision is None else f"{ref.path}@{ref.revision}",
        uri=str(folder),
        weights=files_digest(folder),
        **facts_beside(folder),
    )


def files_digest(folder: Path) -> str:
    """Return the sha256 over a dense model's config and weight files: its `FoundModel.weights`."""
    return digest([[path.name, file_digest(path)] for path in [folder / "config.json", *weight_files(folder)]])


def facts_beside(folder: Path) -> dict[str, Any]:
    """Return the fields of `FoundModel` that say what lies beside the weights."""
    return {
        "tokenizer": processor_digest(folder),
        "generation": file_digest(folder / GENERATION_CONFIG) if (folder / GENERATION_CONFIG).is_file() else "",
        "reads": _digest_of_config(read_config(folder)),
    }


def _digest_of_config(config: dict[str, Any]) -> str:
    says = {key: value for key, value in config.items() if key not in _SAYS_NOTHING_OF_READING}
    return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()  # Infinity is honest here (Mamba)


def check_model(folder: Path) -> None:
    """Check a model folder by its config and the headers of its weights, as far as can be known without loading it.

    Raises ModelError if it is an adapter, has no config or no safetensors, asks for code of its own, is quantised, or
    if a file of weights is cut off, damaged, or not what the index says.
    """
    config = read_config(folder)
    check_no_code(folder)
    _check_not_quantised(folder, config)
    packed = sorted({f"{span.name} ({span.dtype})" for span in tensor_spans(folder).values() if span.dtype in PACKED})
    if packed:
        raise _quantised(folder, f"{len(packed)} tensors, {some(packed, 3)}")


def check_processor(folder: Path) -> None:
    """Raise ModelError if a folder has nothing that makes inputs: an image processor, or else a tokenizer."""
    if (folder / IMAGE_PROCESSOR).is_file():
        read_json(folder / IMAGE_PROCESSOR)
    else:
        check_tokenizer(folder)


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError if a folder's tokenizer is absent or no JSON.

    transformers makes one that knows no word where there is none, and the model answers nonsense.
    """
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {*names} - _NOT_ALONE:
        raise ModelError(
            f"{folder} has no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}: save it there as well"
        )
    for name in names:
        if name.endswith(".json"):
            read_json(folder / name)


def _check_not_quantised(folder: Path, config: dict[str, Any]) -> None:
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in cast("list[dict[str, Any]]", parts):
        if settings := part.get("quantization_config") or part.get("compression_config"):
            method = (
                cast("dict[str, Any]", settings).get("quant_method", "unknown")
                if isinstance(settings, dict)
                else settings
            )
            raise _quantised(folder, str(method))


def _quantised(folder: Path, how: str) -> ModelError:
    return ModelError(
        f"{folder} is quantised ({how}): packed numbers are neither trained nor measured nor merged here; dequantise "
        "it first, or give the model it was made from"
    )


def locate(ref: ModelRef) -> Path:
    """Return the folder that a model is in: of a stage's output in a bucket, this node's copy of it.

    Raises ModelError if it is not here, and the hub does not give it, StorageError for an output that cannot be had.
    """
    if ref.path.startswith("package:"):
        return package_folder(ref.path)
    if is_output(ref.path):
        return output_folder(ref.path)
    folder = user_path(ref.path)
    if folder.is_dir():
        return folder.absolute()
    if not is_hub_name(ref.path):
        raise ModelError(
            f"model folder {ref.path!r} does not exist; give a folder, package:<module>/<folder> or a hub name"
        )
    return _from_hub(ref)


def is_hub_name(path: str) -> bool:
    """Say whether a path may be a model's name on the hub, as owner/name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None and not path.startswith(".")


def is_pinned(revision: str | None) -> bool:
    """Say whether a revision names a commit; a branch or a tag moves."""
    return re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None


def output_folder(uri: str) -> Path:
    """Return this node's copy of a model that is a stage's output in a bucket, or of the one in its `model/`.

    Raises ModelError where there is none, StorageError for an output that is not there or cannot be had.
    """
    uri, inside = uri.rstrip("/"), model_in(Path())
    for part in (f"{uri}/{inside}", uri):
        if any((folder := local_path(part)).glob("*")):
            return folder
    raise ModelError(f"{uri} holds no model; give the output of a stage that makes one, or its {inside}/")


def package_folder(path: str) -> Path:
    """Return the folder that `package:<module>/<folder>` names. Raises ModelError if there is none."""
    module, _, inside = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {path!r}: there is no installed package {module!r}; install it or name a folder")
    if ".." in PurePosixPath(inside).parts:
        raise ModelError(f"model {path!r}: the folder must lie inside the package; leave out '..'")
    folder = Path(spec.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise ModelError(f"model {path!r}: package {module!r} has no folder {inside!r}; name one that it has")
    return folder


def _from_hub(ref: ModelRef) -> Path:
    """Return the hub's folder at a pinned revision. Raises ModelError for no pin and for what the hub does not give."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not is_pinned(ref.revision):
        raise ModelError(
            f"model {ref.path!r} is no folder here, so it comes from the hub, where `revision` must be a commit hash "
            f"of 40 hex digits; got {ref.revision!r}"
        )
    try:
        folder = Path(snapshot_download(ref.path, revision=ref.revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {ref.path!r}@{ref.revision} is no folder here and the hub did not give it: {first_line(error)}"
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model {ref.path!r}@{ref.revision} has no config.json on the hub: it is no transformers model; of an "
            "adapter, give the model it stands on"
        )
    return folder


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds a peft adapter: with one beside a model, transformers loads what the adapter names."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json.

    Raises ModelError if it is absent or not a JSON object, if its labels are not numbered from 0, or for an adapter
    that does not say in `base.json` what it stands on.
    """
    path = folder / "config.json"
    if is_adapter(folder) and (not (folder / BASE).is_file() or any(folder.glob("model*.safetensors"))):
        raise ModelError(_adapter(folder, beside=path.is_file()))
    if is_pipeline(folder):
        raise ModelError(
            f"{folder} is a pipeline of diffusers, which only recipes take: a phase of objective denoising trains, "
            "moves along alpha and publishes it; give a transformers model folder here"
        )
    if not path.exists():
        raise ModelError(f"{folder} has no config.json; it is not a transformers model folder: give one that is")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object; save the model's config again")
    settings = cast("dict[str, Any]", config)
    if "transformers_weights" in settings:
        raise ModelError(
            f"{path} has 'transformers_weights', which names other files of weights than model.safetensors; remove it"
        )
    _labels(path, settings.get("id2label"))
    return settings


def _adapter(folder: Path, *, beside: bool) -> str:
    named = read_json(folder / ADAPTER_CONFIG)
    base = cast("dict[str, Any]", named).get("base_model_name_or_path") if isinstance(named, dict) else None
    stands = f", by its config {base}" if base else ""
    if beside:
        return (
            f"{folder} has an adapter ({ADAPTER_CONFIG}) beside a config.json, and loaders take what the adapter "
            f"stands on{stands}: give a folder that holds the model alone"
        )
    return f"{folder} is an adapter, which stands on another model; give the model it stands on{stands}"


def _labels(path: Path, named: object) -> tuple[str, ...]:
    """Return the labels in the order of their ids. Raises ModelError for ids that are not 0, 1, 2, ..."""
    if named is None:
        return ()
    if not isinstance(named, dict):
        raise ModelError(f"{path}: id2label must map numbers to names, got {named!r}; correct it")
    labels = cast("dict[str, object]", named)
    for key, label in labels.items():
        if not re.fullmatch(r"[0-9]+", key):
            raise ModelError(
                f"{path}: id2label has the key {key!r}, allowed are the numbers 0, 1, 2, ... in the order of the "
                "head's rows; correct it"
            )
        if isinstance(label, bool) or not isinstance(label, str | int | float):
            raise ModelError(f"{path}: id2label[{key}] must be a name, got {label!r}; correct it")
    by_id = {int(key): str(label) for key, label in labels.items()}
    if sorted(by_id) != list(range(len(labels))):
        raise ModelError(
            f"{path}: id2label must number its labels 0 to {len(labels) - 1}, got {', '.join(labels)}; correct it"
        )
    return tuple(by_id[i] for i in range(len(labels)))


def labels_of(folder: Path) -> tuple[str, ...]:
    """Return a classifier's labels in the order of its logits; empty where its config names none, or it draws."""
    if is_pipeline(folder):
        return ()
    return _labels(folder / "config.json", read_config(folder).get("id2label"))


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files, by the index if there is one.

    Raises ModelError if there is none, if one is missing, or if the index points outside the folder (transformers
    follows such a path) or stands beside a file that it does not name (some loaders read the one, some the other).
    """
    index, single = folder / INDEX, folder / SINGLE
    if not index.is_file():
        if single.is_file():
            return [single]
        raise ModelError(_no_weights(folder, single))
    names = sorted({*_weight_map(index).values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{index} names {name!r}, which is not a file in that folder; copy or download it again")
    if single.is_file() and single.name not in names:
        raise ModelError(f"{folder} has model.safetensors beside an index of other files; remove the one that is old")
    return [folder / name for name in names]


def _no_weights(folder: Path, single: Path) -> str:
    if single.is_symlink():
        return f"{single} is a link to {single.readlink()}, which is not there; copy the file itself"
    if is_adapter(folder):
        return _adapter(folder, beside=False)
    pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
    hint = (
        f"; {pickles} is a pickle and is never opened: convert it to safetensors"
        if pickles
        else "; save the model there as safetensors"
    )
    return f"{folder} has no model.safetensors{hint}"


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    mapping = cast("dict[str, object]", content).get("weight_map") if isinstance(content, dict) else None
    names = cast("dict[str, object]", mapping) if isinstance(mapping, dict) else {}
    if not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(
            f"{index} is not an index of safetensors files: its weight_map must name a file per tensor; copy or "
            "download it again"
        )
    return cast("dict[str, str]", names)


def tensor_files(folder: Path) -> tuple[TensorFile, ...]:
    """Read the headers of a model folder's files. Raises what `weight_files` and `read_header` raise."""
    return tuple(read_header(path) for path in weight_files(folder))


def tensor_spans(folder: Path) -> dict[str, TensorSpan]:
    """Return every tensor of a model folder by name, in the order of the files.

    Raises what `tensor_files` raises, and ModelError for a name that two files have, or that the index has in another.
    """
    files = tensor_files(folder)
    spans = only_once(files)
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX, spans)
    return spans


def _check_index(index: Path, spans: dict[str, TensorSpan]) -> None:
    named = _weight_map(index)
    for name in (*named, *spans):
        span, indexed = spans.get(name), named.get(name)
        if span is None or span.file.name != indexed:
            where = f"is in {span.file.name}" if span else "is in no file"
            tells = f"names {indexed} for" if indexed else "does not name"
            raise ModelError(f"{index} {tells} tensor {name!r}, which {where}; save the model again")


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the folder's tensors: name, dtype, shape and bytes, in order of name.

    The same for any shard layout, so a re-sharded or re-saved model keeps its identity.
    """
    return digest_of_tensors(
        (span.name, span.dtype, span.shape, hashlib.sha256(data).hexdigest())
        for path in weight_files(folder)
        for span, data in read_tensors(path)
    )


def digest_of_tensors(tensors: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """Return the digest of (name, dtype, shape, sha256 of the bytes), in any order."""
    lines = sorted((name, f"{name} {dtype} {list(shape)} {sha256}\n") for name, dtype, shape, sha256 in tensors)
    return hashlib.sha256("".join(line for _, line in lines).encode()).hexdigest()


def processor_digest(folder: Path) -> str:
    """Return the sha256 over the names and bytes of what makes the model's inputs: tokenizer, image processor."""
    return digest([[name, file_digest(folder / name)] for name in PROCESSOR_FILES if (folder / name).is_file()])


def config_digest(folder: Path) -> str:
    """Return the sha256 over the folder's config.json and generation_config.json: what the tensors alone do not say."""
    names = [name for name in ("config.json", GENERATION_CONFIG) if (folder / name).is_file()]
    return digest([[name, file_digest(folder / name)] for name in names])


def copy_processor(source: Path, target: Path) -> None:
    """Copy what makes inputs byte for byte: a re-saved tokenizer is another tokenizer."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
