"""Folders of adapters, without torch or peft: their config, their identity, and the model that they stand on.

An adapter that a phase ends in, or that a version is, has in one folder what peft saves, the config and processor of
the model that it makes, and `base.json`: which model it stands on, by name and digest. No merged weights are anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from ftlib.errors import ModelError, StorageError
from ftlib.fingerprint import digest, file_digest
from ftlib.models.checkpoint import ADAPTER_CONFIG, BASE, Base, Checkpoint, FoundModel
from ftlib.models.folder import (
    check_no_code,
    check_processor,
    digest_of_tensors,
    facts_beside,
    files_digest,
    find_model,
    is_adapter,
    locate,
    read_json,
)
from ftlib.models.reference import ModelRef
from ftlib.models.tensor_files import TensorSpan, read_header, read_tensors

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Bases:
    """Where to look for the model that an adapter stands on, beside the place that its name says."""

    version: Callable[[str], Path] | None = None
    """Gives the folder of a registry's version `name@3`."""
    given: tuple[Path, ...] = ()
    """Folders that a user names; of these the one with the right bytes is taken, whatever it is called."""


ANYWHERE = Bases()

PROMPTS = frozenset({"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"})
"""The methods, by peft's names, that put something before every row and leave the model's layers as they are."""

LENGTHENING = PROMPTS - {"PREFIX_TUNING"}
"""Those of them whose model answers for the prompt's places too."""


def prefix_of(method: str) -> str:
    """Return what peft, with an adapter of that method, puts before the names of the model that it wraps."""
    return "base_model." if method in PROMPTS else "base_model.model."


_WHERE = ("base_model_name_or_path", "revision")
"""What an adapter's config says of a place, which is not part of what it is."""


def read_adapter(folder: Path) -> dict[str, Any]:
    """Read an adapter's config.

    Raises ModelError if it is none, asks for code of its own, or its weights are missing, damaged, a pickle, or of
    another rank than it says.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} has no {ADAPTER_CONFIG}; it is not an adapter as peft writes it")
    content = read_json(path)
    config = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if not isinstance(config.get("peft_type"), str):
        raise ModelError(f"{path} names no peft_type; it is not an adapter as peft writes it")
    check_no_code(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = "; adapter_model.bin is a pickle and is never opened: save it as safetensors"
        absent = "; save the adapter there again"
        raise ModelError(f"{folder} has no {WEIGHTS}{pickled if (folder / 'adapter_model.bin').is_file() else absent}")
    spans = read_header(folder / WEIGHTS).spans
    if config["peft_type"] == "LORA":
        _check_scaling(path, config, spans)
    return config


def _check_scaling(path: Path, config: Mapping[str, Any], spans: Iterable[TensorSpan]) -> None:
    """Refuse a rank that is not the matrices': an adapter counts alpha / r times, whatever lies in its file."""
    ranks, alphas = ((config.get(name) or {}).values() for name in ("rank_pattern", "alpha_pattern"))
    for name, numbers in (("r", (config.get("r"), *ranks)), ("lora_alpha", (config.get("lora_alpha"), *alphas))):
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or (name == "r" and number < 1):
                raise ModelError(f"{path}: {name} must be a number, got {number!r}; save the adapter again")
    for span in spans:
        if span.name.endswith(".lora_A.weight") and span.shape[:1] and span.shape[0] not in {config["r"], *ranks}:
            named = ", ".join(str(rank) for rank in dict.fromkeys((config["r"], *ranks)))
            raise ModelError(
                f"{path} says rank {named}, but {span.name} has rank {span.shape[0]}: it would count by another factor "
                "than it was trained with; restore the config that it was saved with"
            )


def write_adapter_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an adapter's config so that equal ones are equal bytes; peft writes its sets in any order."""
    settings = {
        key: sorted(cast("list[str]", value)) if _is_set(key, value) else value for key, value in config.items()
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _is_set(key: str, value: object) -> bool:
    return key in ("target_modules", "modules_to_save", "exclude_modules") and isinstance(value, list)


def write_base(folder: Path, base: Base) -> None:
    """Write which model the adapter in a folder stands on."""
    told = {"name": base.name, "weights": base.weights}
    told |= {"quantization": base.quantization} if base.quantization else {}
    (folder / BASE).write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def read_base(folder: Path) -> Base:
    """Read which model the adapter in a folder stands on. Raises ModelError if the folder does not say."""
    if not (folder / BASE).is_file():
        raise ModelError(
            f"{folder} is an adapter without {BASE}, so which weights it stands on is not known; give a version of a "
            "registry or a folder of the train stage, or merge it: reglage interpolate BASE ADAPTER --alpha 1"
        )
    try:
        return Base.model_validate(read_json(folder / BASE))
    except ValidationError as error:
        raise ModelError(f"{folder / BASE} does not name a model and its digest; copy it again") from error


def base_of(start: Checkpoint) -> Base:
    """Return what an adapter that is trained from a checkpoint stands on: what that one does, or its dense weights."""
    return start.base or Base(name=start.model_uri, weights=files_digest(start.folder), uri=start.model_uri)


def find_base(folder: Path, bases: Bases = ANYWHERE) -> Base:
    """Find the model that the adapter in a folder stands on, on this machine, and compare its bytes with the digest.

    Raises ModelError, naming both, if it is not there or is another one.
    """
    base = read_base(folder)
    given = {path: "" if is_adapter(path) else files_digest(path) for path in bases.given}
    stands = f"the adapter in {folder} stands on {base.name}"
    others = "".join(f", and {path} has {has[:12] or 'an adapter'}" for path, has in given.items())
    try:
        path = next((path for path, has in given.items() if has == base.weights), None) or _place(base.name, bases)
    except (ModelError, StorageError) as error:
        remedy = others or "; name its folder: --base FOLDER"
        raise ModelError(f"{stands} with weights {base.weights[:12]}, which cannot be had: {error}{remedy}") from error
    actual = given.get(path) or ("" if is_adapter(path) else files_digest(path))
    if actual != base.weights:
        raise ModelError(
            f"{stands} with weights {base.weights[:12]}, but {path} has {actual[:12] or 'an adapter'}{others}: "
            "give back the model that it was trained over"
        )
    return base.model_copy(update={"uri": str(path)})


def _place(name: str, bases: Bases) -> Path:
    if re.fullmatch(r"[^@/:]+@[0-9]+", name):
        if bases.version is None:
            raise ModelError("it is a registry's version; name the registry")
        return bases.version(name)
    path, _, revision = name.partition("@") if re.fullmatch(r"[^@]+@[0-9a-f]{40}", name) else (name, "", "")
    return locate(ModelRef(path=path, revision=revision or None))


def adapter_digest(folder: Path, base: Base) -> str:
    """Return the digest of the weights that an adapter makes of its base: its tensors, its config, and the base's."""
    config = {key: value for key, value in read_adapter(folder).items() if key not in _WHERE}
    tensors = read_tensors(folder / WEIGHTS)
    lines = ((span.name, span.dtype, span.shape, hashlib.sha256(data).hexdigest()) for span, data in tensors)
    return digest(["adapter", base.digest, digest_of_tensors(lines), json.dumps(config, sort_keys=True)])


def find_any(ref: ModelRef, bases: Bases = ANYWHERE) -> FoundModel:
    """Find the model that a recipe or a command names, in any form, and identify its bytes.

    Raises ModelError if it is missing or nothing makes its inputs, what `check_model` raises, and for an adapter what
    `find_base` raises.
    """
    folder = locate(ref)
    if not is_adapter(folder):
        return find_model(ref)
    read_adapter(folder)
    base = find_base(folder, bases)
    check_no_code(folder)
    check_processor(folder)
    return FoundModel(
        name=ref.path,
        uri=str(folder),
        weights=found_adapter_digest({path.name: file_digest(path) for path in map(folder.joinpath, FILES)}, base),
        form="adapter",
        base=base,
        **facts_beside(folder),
    )


FILES = ("config.json", ADAPTER_CONFIG, WEIGHTS)
"""What an adapter's folder is known by, beside its base."""


def found_adapter_digest(files: Mapping[str, str], base: Base) -> str:
    """Return the `FoundModel.weights` of an adapter from the sha256 of its `FILES`."""
    return digest([*([name, files[name]] for name in FILES), base.digest])
