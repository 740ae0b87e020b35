"""Read a recipe's file: YAML first, then overrides; every problem is a line of its own."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from ftlib.config import user_path
from ftlib.errors import RecipeError
from ftlib.extensions import MEMBERS, check_extensions, misfits
from ftlib.kinds.kind import KINDS
from ftlib.models.with_diffusers import EXTRA, PACKAGE
from ftlib.recipe.examples import examples
from ftlib.recipe.recipe import Recipe
from ftlib.storage.encryption import check_one_key
from ftlib.storage.files import meant_path
from ftlib.wording import meant
from ftlib.yaml_text import read_value

Location = tuple[str | int, ...]

_TOO_DEEP = "{}: lists or mappings are nested too deep, or one holds itself; fix the YAML"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `path=value` overrides in order, and validate it.

    Raises RecipeError whose message has one line per problem, each with its path in the recipe.
    """
    return recipe_from(path, read_yaml(user_path(path)), overrides)


def recipe_from(path: str | Path, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that `read_yaml` has read from a path, as `load_recipe` does."""
    check_extensions()
    changed = cast("dict[str, Any]", _unshared(data))
    for override in overrides:
        _override(changed, override)
    try:
        recipe = Recipe.model_validate(changed)
    except ValidationError as error:
        lines = explain(error.errors(), changed, Recipe.model_json_schema())
        raise RecipeError("\n".join(f"{path}: {line}" for line in lines)) from None
    if lines := [*_missing_packages(recipe), *misfits(recipe)]:
        raise RecipeError("\n".join(f"{path}: {line}" for line in lines))
    check_one_key(recipe.encryption.kms_key)
    return recipe


def _missing_packages(recipe: Recipe) -> Iterator[str]:
    """Say what needs a package that is absent here: a valid recipe, which another machine may run."""
    for name, dataset in recipe.datasets.items():
        needed = dataset.source.package
        if needed and importlib.util.find_spec(needed) is None:
            yield (
                f"datasets.{name}.source needs the package {needed!r}, which is not installed; "
                "pip install 'reglage[sql]'"
            )
    for name, dataset in recipe.datasets.items():
        predictor = KINDS[dataset.format.yields].predictor
        if predictor and predictor.draws and importlib.util.find_spec(PACKAGE) is None:
            yield (
                f"datasets.{name}.format: what draws images needs the package {PACKAGE!r}, which is not installed; pip "
                f"install 'reglage[{EXTRA}]'"
            )
    for phase in recipe.phases:
        needed = phase.augmentation and phase.augmentation.package
        if needed and importlib.util.find_spec(needed) is None:
            yield (
                f"phases[{phase.name}].augmentation needs the package {needed!r}, which is not installed; "
                "pip install 'reglage[images]'"
            )
    for name, evaluation in recipe.evaluations.items():
        for metric in evaluation.metrics:
            if metric.package and importlib.util.find_spec(metric.package) is None:
                yield (
                    f"evaluations.{name}: {metric.kind!r} needs the package {metric.package!r}, which is not "
                    f"installed; pip install 'reglage[{metric.extra}]'"
                )


def read_yaml(path: Path, what: str = "a recipe") -> dict[str, Any]:
    """Read one YAML mapping: `what` names it to the user. Raises RecipeError that names the line."""
    try:
        data = read_value(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        absent = isinstance(error, FileNotFoundError)
        ours = f"; `reglage init --example {path.stem}` writes the one that Réglage brings"
        hint = ours if absent and path.stem in examples() else meant_path(str(path)) if absent else ""
        raise RecipeError(f"{path}: cannot be read: {reason}; give the path of {what}, a YAML file{hint}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise RecipeError(f"{path}: {where}: {error.problem or error.context}; fix the YAML") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}; fix the YAML") from None
    except RecursionError:
        raise RecipeError(_TOO_DEEP.format(path)) from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: holds {_kind_of(data)}; {what} is a mapping that starts with `name:`")
    try:
        return _unshared(cast("dict[str, Any]", data))
    except RecursionError:  # an alias inside what it stands for
        raise RecipeError(_TOO_DEEP.format(path)) from None


def _unshared(value: Any) -> Any:
    """Copy what aliases share, so that an override of one place does not change the other."""
    if isinstance(value, dict):
        return {key: _unshared(member) for key, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_unshared(member) for member in cast("list[Any]", value)]
    return value


def _override(data: dict[str, Any], override: str) -> None:
    """Set one `path=value`, as in phases.tune.optimizer.epochs=1.

    A member of a list goes by its `name` or its position; -1 is the last.
    """
    path, equals, text = override.partition("=")
    keys = [key for key in re.split(r"[.\[\]]+", path.strip()) if key]
    if not equals or not keys:
        raise RecipeError(f"{override!r} is no override; write path=value, for example phases.tune.optimizer.epochs=1")
    try:
        value = read_value(text)
    except (yaml.YAMLError, RecursionError):
        raise RecipeError(f"{override!r}: {text!r} is no YAML value; quote it") from None
    parent: Any = data
    for depth, key in enumerate(keys[:-1]):
        parent = _step(parent, key, ".".join(keys[: depth + 1]))
    if isinstance(parent, list):
        members = cast("list[Any]", parent)
        members[_position(members, keys[-1], path)] = value
    elif isinstance(parent, dict):
        cast("dict[str, Any]", parent)[keys[-1]] = value
    else:
        raise RecipeError(
            f"{path}: {'.'.join(keys[:-1])} is {_kind_of(parent)}, which has no fields to set; name one of a mapping"
        )


def _step(parent: Any, key: str, path: str) -> Any:
    if isinstance(parent, list):
        members = cast("list[Any]", parent)
        return members[_position(members, key, path)]
    if not isinstance(parent, dict):
        raise RecipeError(
            f"{path}: its parent is {_kind_of(parent)}, which has no fields to set; name one of a mapping"
        )
    mapping = cast("dict[str, Any]", parent)
    if mapping.get(key) is None:
        mapping[key] = {}  # a group left to its defaults: the override is its first field
    return mapping[key]


def _position(members: list[Any], key: str, path: str) -> int:
    names = [str(cast("dict[str, Any]", m).get("name", "")) if isinstance(m, dict) else "" for m in members]
    if key in names:
        return names.index(key)
    if re.fullmatch(r"-?[0-9]+", key) and -len(members) <= int(key) < len(members):
        return int(key)
    allowed = ", ".join([name for name in names if name] or [f"0 to {len(members) - 1}"])
    raise RecipeError(f"{path}: the list has no member {key!r}; it has {allowed}{meant(key, names)}")


def explain(problems: Iterable[Any], data: Mapping[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return a line `path: what, got, allowed` for every of pydantic's problems of `data`, which `schema` describes."""
    return [line for problem in problems for line in _explain(problem, data, schema)]


def _explain(problem: Any, data: Mapping[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """Yield pydantic's problem in our words: the field's path, what was got, what is allowed, what was meant."""
    location: Location = problem["loc"]
    where = _path(location, data, schema)
    context: dict[str, Any] = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            fields = sorted(_fields(location[:-1], schema))
            name = str(location[-1])
            hint = _called_here(name, fields) or meant(name, fields)
            yield f"{where}: unknown field{hint}; allowed: {', '.join(fields)}"
        case "missing":
            yield f"{where}: required, but absent"
        case "union_tag_invalid":
            tags = re.findall(r"'([^']+)'", str(context["expected_tags"]))
            got = str(context["tag"])
            hint = meant(got, tags) or _to_install(location)
            yield f"{where}.kind: unknown kind {got!r}{hint}; allowed: {', '.join(tags)}"
        case "union_tag_not_found":
            tags = _tags(location, schema)
            yield f"{where}: needs a kind; allowed: {', '.join(tags)}"
        case "too_short":
            least, got = context["min_length"], problem["input"]
            if len(got) < least:  # of members that are refused themselves pydantic says, too, that they are absent
                yield f"{where}: at least {least}, got {_short(got)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            yield f"{where}: fields with their values, as {{name: value}}, got {_short(problem['input'])}"
        case "value_error":
            message = str(problem["msg"]).removeprefix("Value error, ")
            yield from (f"{where}: {line}" if where else line for line in message.splitlines())
        case _:
            message = str(problem["msg"])
            yield f"{where}: {message[:1].lower()}{message[1:]}, got {_short(problem['input'])}"


def _path(location: Location, data: Any, schema: dict[str, Any]) -> str:
    """Write a location as the user would: no discriminator tags, and list members by name."""
    path, parent = "", data
    for depth, key in enumerate(location):
        if isinstance(key, int) and isinstance(parent, list):
            members = cast("list[Any]", parent)
            parent = members[key] if key < len(members) else None
            named = cast("dict[str, Any]", parent).get("name") if isinstance(parent, dict) else None
            path += f"[{named or key}]"
        elif isinstance(parent, dict):
            mapping = cast("dict[str, Any]", parent)
            if key not in mapping and key in _tags(location[:depth], schema):
                continue
            parent = mapping.get(str(key))
            path += f".{key}" if path else str(key)
    return path


def _fields(location: Location, schema: dict[str, Any]) -> Iterable[str]:
    return cast("dict[str, Any]", _schema_at(location, schema).get("properties", {}))


def _tags(location: Location, schema: dict[str, Any]) -> list[str]:
    mapping = _schema_at(location, schema).get("discriminator", {}).get("mapping", {})
    return list(cast("dict[str, Any]", mapping))


def _schema_at(location: Location, root: dict[str, Any]) -> dict[str, Any]:
    """Follow a location through a JSON schema; {} where the schema stops."""
    schema = _resolve(root, root)
    for key in location:
        if isinstance(key, int):
            schema = schema.get("items", {})
        elif key in schema.get("properties", {}):
            schema = schema["properties"][key]
        elif "discriminator" in schema:
            schema = {"$ref": schema["discriminator"]["mapping"].get(key, "")}
        else:  # a mapping with free names: one schema for all its values
            schema = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties")) or {}
        schema = _resolve(schema, root)
    return schema


def _resolve(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, and step into the one branch of `X | None` that has fields."""
    if not isinstance(schema, dict):
        return {}
    resolved = cast("dict[str, Any]", schema)
    if "$ref" in resolved:
        return root.get("$defs", {}).get(resolved["$ref"].rsplit("/", 1)[-1], {})
    for branch in resolved.get("anyOf", []):
        if "$ref" in branch or "discriminator" in branch:
            return _resolve(branch, root)
    return resolved


def _called_here(name: str, fields: Iterable[str]) -> str:
    """Say what another library's name for a setting is called in a recipe; empty for a name that none of them has."""
    path = _ELSEWHERE.get(name.lower())
    if path is None:
        return ""
    *_, last = path.split(".")
    return f"; did you mean {last!r}?" if last in fields else f"; here that is {path}"


_ELSEWHERE = {
    theirs: path
    for path, names in {
        "model.path": "model_name_or_path model_name pretrained_model_name_or_path base_model",
        "phases.*.optimizer.learning_rate": "lr max_lr peak_lr adam_lr",
        "phases.*.optimizer.epochs": "num_train_epochs num_epochs n_epochs max_epochs",
        "phases.*.optimizer.batch_tokens": "max_tokens_per_batch tokens_per_batch batch_size_tokens",
        "phases.*.optimizer.batch_size": "per_device_train_batch_size train_batch_size global_batch_size bs",
        "compute.micro_batch_size": "gradient_accumulation_steps micro_batch per_device_batch_size",
        "compute.pack_tokens": "packing sample_packing pack_length packing_length",
        "phases.*.optimizer.warmup": "warmup_ratio warmup_steps num_warmup_steps",
        "phases.*.optimizer.schedule": "lr_scheduler_type lr_scheduler scheduler",
        "phases.*.optimizer.weight_decay": "wd l2_decay",
        "phases.*.optimizer.clip_norm": "max_grad_norm gradient_clip_val grad_clip clip_grad_norm",
        "phases.*.optimizer.beta1": "adam_beta1",
        "phases.*.optimizer.beta2": "adam_beta2",
        "phases.*.optimizer.epsilon": "adam_epsilon eps",
        "phases.*.tuning.rank": "lora_r r lora_rank",
        "phases.*.tuning.alpha": "lora_alpha",
        "phases.*.tuning.dropout": "lora_dropout",
        "phases.*.tuning.targets": "target_modules lora_target lora_target_modules",
        "phases.*.objective.label_smoothing": "label_smoothing_factor",
        "phases.*.early_stopping.patience": "early_stopping_patience",
        "phases.*.precision": "bf16 fp16 mixed_precision torch_dtype",
        "datasets.*.format.max_tokens": "max_length max_seq_length max_seq_len cutoff_len model_max_length",
        "datasets.*.format.text": "text_column text_field",
        "datasets.*.format.label": "label_column labels",
        "datasets.*.split.validation": "val_size validation_split validation_split_percentage",
        "datasets.*.split.test": "test_size test_split",
        "compute.workers": "num_workers nproc_per_node num_gpus num_processes",
        "compute.sharding": "fsdp fsdp_config zero_stage",
        "compute.replicas": "data_parallel_replicate_degree dp_replicate",
        "compute.activation_checkpointing": "gradient_checkpointing use_gradient_checkpointing recompute",
        "compute.cpu_offload": "offload_params fsdp_offload_params",
        "compute.compile": "torch_compile",
        "publish.to": "output_dir",
        "publish.name": "hub_model_id model_id",
        "seed": "random_state random_seed",
    }.items()
    for theirs in names.split()
}


def _to_install(location: Location) -> str:
    """Say that a package could bring the kind, if one may for this field."""
    field = next(key for key in reversed(location) if isinstance(key, str)).removesuffix("s")
    if field not in MEMBERS:
        return ""
    return f"; install the package that brings it (as an entry point of the group 'reglage.{field}'), or correct it"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind_of(value: object) -> str:
    if value is None:
        return "nothing"
    return {"dict": "a mapping", "list": "a list", "str": "a text"}.get(type(value).__name__, f"{value!r}")
