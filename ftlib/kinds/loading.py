"""Models in memory: loading a folder, fresh heads. Safetensors and JSON only; no code from a folder runs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedModel

from ftlib.config import BatchKind
from ftlib.data.processor import Processor
from ftlib.errors import ModelError, first_line
from ftlib.kinds.kind import KINDS
from ftlib.kinds.padding import settle
from ftlib.kinds.task_model import TaskModel, module_of
from ftlib.models.adapter import ANYWHERE, WEIGHTS, Bases, find_base, prefix_of, read_adapter, read_base
from ftlib.models.bottlenecks import bottlenecks_of, own_names, put_bottlenecks_over
from ftlib.models.checkpoint import BASE, BOTTLENECK, Checkpoint, FoundModel
from ftlib.models.folder import (
    IMAGE_PROCESSOR,
    check_model,
    check_no_code,
    check_tokenizer,
    is_adapter,
    read_config,
    read_json,
)
from ftlib.models.four_bits import round_to_four_bits
from ftlib.models.limits import decoder_start, load_config
from ftlib.models.quiet import quiet
from ftlib.models.special_tokens import kept_apart
from ftlib.models.tensor_files import read_header
from ftlib.models.unread import build_unread, read_all, unread_names
from ftlib.wording import counted, some

_LOADING: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}


def load(checkpoint: Checkpoint | FoundModel, kind: BatchKind, dropout: float | None = None) -> nn.Module:
    """Return the model of a checkpoint, or of a model that was found, in any form: in fp32 and eval mode.

    Of a checkpoint of several tasks it is a `TaskModel`, and `kind` counts for nothing: each task has its own. Dropouts
    of its config are set to `dropout` if that is given. Raises ModelError if it cannot be loaded or if a tensor would
    be left at random.
    """
    if tasks := _tasks(checkpoint):
        return TaskModel({name: load(one, kind, dropout) for name, (one, kind) in tasks.items()})
    if checkpoint.base is None:
        return load_for_training(checkpoint.folder, kind, dropout)
    return load_adapter(checkpoint.folder, checkpoint.base.folder, kind, dropout)


def load_unread(checkpoint: Checkpoint | FoundModel, kind: BatchKind, dropout: float | None = None) -> nn.Module:
    """Return what `load` does, with parameters that are `Unread` wherever they are a file's tensors one by one.

    What an adapter brings is read. Values are not looked at: who reads them checks that they are finite. Raises
    ModelError as `load` does.
    """
    if tasks := _tasks(checkpoint):
        return TaskModel({name: load_unread(one, kind, dropout) for name, (one, kind) in tasks.items()})
    if checkpoint.base is None:
        model, missing = unread_with_gaps(checkpoint.folder, kind, None, dropout)
        _check_no_gaps(checkpoint.folder, missing)
        return model
    base = checkpoint.base.folder
    model, missing = unread_with_gaps(base, kind, checkpoint.folder, dropout)
    return _over(model, missing, checkpoint.folder, base)


def _tasks(checkpoint: Checkpoint | FoundModel) -> dict[str, tuple[Checkpoint, BatchKind]]:
    """Return what each of several tasks is asked of, and by what kind of batch."""
    if isinstance(checkpoint, FoundModel):
        return {}
    return {task.name: (checkpoint.of_task(task.name), task.kind) for task in checkpoint.tasks}


def unread_with_gaps(
    folder: Path, kind: BatchKind, described_by: Path | None = None, dropout: float | None = None
) -> tuple[nn.Module, set[str]]:
    """Return what `load_with_gaps` does, with parameters that are `Unread`; see `load_unread`."""
    described = described_by or folder
    changed = _dropouts(described, dropout)
    loader, config = _settled(folder, kind, described, changed)
    try:
        built = build_unread(model_class(loader, config), folder, config)
    except ModelError:
        raise
    except Exception as error:  # of transformers, and of whatever the config makes it build
        raise _unloadable(folder, loader, error) from error
    if built is None:
        return load_with_gaps(folder, kind, described_by, **changed)
    return built[0], _gaps(built[1])


def model_class(loader: Any, config: Any) -> Any:
    """Return the class of transformers that a loader takes for a config, by the config's own `architectures` if any."""
    from transformers.models.auto.auto_factory import _get_model_class  # pyright: ignore[reportPrivateUsage]

    return cast(Any, _get_model_class)(config, loader._model_mapping)


def load_model(folder: Path, kind: BatchKind) -> nn.Module:
    """Load a folder as stock transformers does, in fp32 and eval mode.

    Raises ModelError if it cannot be loaded or if a tensor would be left at random.
    """
    return load_for_training(folder, kind, dropout=None)


def load_folder(folder: Path, kind: BatchKind, bases: Bases = ANYWHERE) -> nn.Module:
    """Load a folder of any form: an adapter is put over its base, which is looked for. Raises ModelError."""
    if is_adapter(folder):
        return load_adapter(folder, find_base(folder, bases).folder, kind)
    return load_model(folder, kind)


def load_language_model(folder: Path, bases: Bases = ANYWHERE) -> nn.Module:
    """Load a folder of any form as a causal language model, whatever it was trained to follow."""
    return load_folder(folder, next(kind.name for kind in KINDS.values() if kind.language), bases)


def load_with_gaps(
    folder: Path, kind: BatchKind, described_by: Path | None = None, /, **config: object
) -> tuple[nn.Module, set[str]]:
    """Load a folder and say which tensors it lacked (freshly initialised from torch's current seed).

    `config` overrides the model's own, for example `num_labels`; `described_by` is the folder whose config and
    tokenizer count instead of its own. Raises ModelError for a folder that `check_model`
    refuses, that stock transformers cannot load, or whose weights are not finite.
    """
    return _from_folder(folder, *_settled(folder, kind, described_by or folder, config))


def _settled(folder: Path, kind: BatchKind, described: Path, changed: Mapping[str, object]) -> tuple[Any, Any]:
    """Return the loader of a kind's models, and the config of the model in a folder that `check_model` takes."""
    check_model(folder)
    config = load_config(described, **changed)
    if KINDS[kind].language and KINDS[kind].decodes != config.is_encoder_decoder:
        # transformers would load the decoder of some families (BART) alone, which has learnt to hear an encoder.
        is_one = "is an encoder-decoder" if config.is_encoder_decoder else "is no encoder-decoder"
        raise ModelError(
            f"{folder} {is_one} ({config.model_type}), and asked for is {KINDS[kind].auto_class}: give another model, "
            "or rows that are laid out for this one"
        )
    settle(config, described, kind, lambda: load_tokenizer(described))
    return KINDS[kind].head().auto_class, config


def load_encoder(folder: Path) -> nn.Module:
    """Load a folder as the model that it is, without a head for any kind of batch, in fp32 and eval mode.

    Raises ModelError as `load_model` does.
    """
    check_model(folder)
    model, missing = _from_folder(folder, AutoModel, load_config(folder))
    _check_no_gaps(folder, missing)
    return model


def load_as_named(folder: Path) -> tuple[Any, set[str]]:
    """Load a folder as the class that its config names, in fp32 and eval mode, and say which tensors it lacked.

    As what AutoModel takes it for where transformers has no such class. Raises ModelError as `load_with_gaps` does.
    """
    import transformers

    check_model(folder)
    config = load_config(folder)
    named: Any = getattr(transformers, (config.architectures or [""])[0] or "-", None)
    return _from_folder(folder, named or AutoModel, config)


def _from_folder(folder: Path, loader: Any, config: Any) -> tuple[nn.Module, set[str]]:
    """Return a model in fp32 and eval mode, and the names of its parameters that the folder has no tensor for."""
    try:
        with quiet():
            model, info = loader.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **_LOADING,
            )
    except Exception as error:  # of transformers, and of whatever the config makes it build
        raise _unloadable(folder, loader, error) from error
    _check_finite(model, folder)
    return model.eval(), _gaps(info)


def _unloadable(folder: Path, loader: Any, error: Exception) -> ModelError:
    return ModelError(
        f"{folder} cannot be loaded as a {loader.__name__.removeprefix('AutoModelFor')} model: {first_line(error)}"
        "; correct its config.json, or give another model"
    )


def _gaps(info: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters that the file had no tensor for, or one of another shape."""
    return {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}


def empty_model(loader: Any, config: Any, folder: Path) -> nn.Module:
    """Make the model that a folder's config describes. Raises ModelError if it describes none."""
    try:
        return loader.from_config(config)
    except Exception as error:
        raise ModelError(f"{folder}/config.json makes no model: {first_line(error)}; correct it") from error


_WITHOUT_LABELS = frozenset({"bbox_predictor"})
"""Modules of a head that say the same whatever the labels are: where a detector's boxes lie."""


def with_fresh_head(model: nn.Module) -> set[str]:
    """Give a model a head from torch's current seed, and return its parameters' names: the old one knew other things.

    A tensor of the wrong shape is fresh anyway; three labels and three other labels have the same shape.
    """
    fresh = cast(Any, type(model))(cast(Any, model).config).eval()
    modules = {*head_modules(model)} - _WITHOUT_LABELS
    for name in modules:
        setattr(model, name, getattr(fresh, name))
    return {name for name, _ in model.named_parameters() if name.split(".")[0] in modules}


_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "dropout_rate",
    "drop_connect_rate",
)


def load_for_training(folder: Path, kind: BatchKind, dropout: float | None) -> nn.Module:
    """Load a folder with every dropout of its config set to `dropout`, if that is given."""
    model, missing = load_with_gaps(folder, kind, **_dropouts(folder, dropout))
    _check_no_gaps(folder, missing)
    return model


def _dropouts(folder: Path, dropout: float | None) -> dict[str, Any]:
    config = read_config(folder)
    changed: dict[str, Any] = {} if dropout is None else {key: dropout for key in _DROPOUTS if key in config}
    if dropout is not None and config.get("classifier_dropout", None) is not None:
        changed["classifier_dropout"] = dropout
    return changed


def _check_no_gaps(folder: Path, missing: Collection[str]) -> None:
    if missing:
        raise ModelError(
            f"{folder} lacks {counted(len(missing), 'tensor')}, among them {some(sorted(missing), 3)}; copy or "
            "download it again"
        )


def load_adapter(folder: Path, base: Path, kind: BatchKind, dropout: float | None = None) -> nn.Module:
    """Load a base's weights with an adapter's config, and put the adapter over them by peft; frozen, in eval mode.

    What the base lacks the adapter must bring whole, as a head that was trained. A base that it says is rounded to four
    bits is rounded first. Raises ModelError if it does not, or if the two do not fit together.
    """
    model, missing = load_with_gaps(base, kind, folder, **_dropouts(folder, dropout))
    return _over(model, missing, folder, base)


def _over(model: nn.Module, missing: set[str], folder: Path, base: Path) -> nn.Module:
    if (folder / BASE).is_file() and (quantization := read_base(folder).quantization):
        round_to_four_bits(read_all(model), head_modules(model), quantization)
    wrapped, brought = put_over(model, folder)
    _check_no_gaps(base, missing - brought)
    return wrapped


def put_over(model: nn.Module, folder: Path) -> tuple[nn.Module, set[str]]:
    """Put an adapter over a model, and return the model's parameters that it replaces whole.

    Raises ModelError if a tensor of the adapter has no place in the model, or a place no tensor.
    """
    config = read_adapter(folder)
    if config["peft_type"] == BOTTLENECK:
        with_bottlenecks = put_bottlenecks_over(model, folder)
        _check_finite(with_bottlenecks, folder)
        return with_bottlenecks, own_names(with_bottlenecks)
    from peft import PeftModel, get_peft_model_state_dict

    from ftlib.kinds.soft_prompts import answering_for_its_input

    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # transformers' own about its names; missing keys are looked for below
            wrapped: Any = PeftModel.from_pretrained(cast(Any, model), folder, is_trainable=False)
        have: set[str] = {*get_peft_model_state_dict(wrapped)}
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder} ({config['peft_type']}) cannot be put over its base: {first_line(error)}; give the model that "
            "it was trained over"
        ) from error
    names = {span.name for span in read_header(folder / WEIGHTS).spans}
    if stray := sorted(have ^ names):
        raise ModelError(
            f"{folder} ({config['peft_type']}) does not fit its base: {len(stray)} tensors are on one side only, among "
            f"them {stray[0]}; give the model that it was trained over"
        )
    _check_finite(wrapped, folder)
    prefix = prefix_of(config["peft_type"])
    return answering_for_its_input(wrapped.eval()), {name.removeprefix(prefix) for name in names}


ADAPTED = prefix_of("LORA")
"""What peft puts before the names of the parameters of a model that it wraps layer by layer."""


def is_adapted(model: nn.Module) -> bool:
    """Say whether peft has put an adapter over a model."""
    return hasattr(model, "peft_config")


def merged(model: nn.Module) -> nn.Module:
    """Return a model with the adapter over it, if any, merged into its weights.

    Raises ModelError for an adapter that has no merged form, as prompts have none.
    """
    if bottlenecks_of(model):
        raise ModelError(
            "bottleneck adapters have no merged form, and stock transformers loads none: go on with houlsby, or start "
            "from the base"
        )
    if not is_adapted(model):
        return model
    wrapped: Any = model
    try:
        return cast("nn.Module", wrapped.merge_and_unload(safe_merge=True))
    except (AttributeError, NotImplementedError, ValueError) as error:
        method = wrapped.peft_config["default"].peft_type.value
        raise ModelError(
            f"{method} has no merged form ({first_line(error)}): go on with the same tuning, or start from the base"
        ) from error


def head_modules(model: nn.Module) -> list[str]:
    """Return the names of the top-level modules with parameters that are not the body: the task head.

    Under an adapter they are those of the copies that it trains; of several tasks, those of all. The body has the name
    that its class says, or is a model of its own: CLIP's image classifier calls it `vision_model`, and CLIP's prefix is
    `clip`.
    """
    if isinstance(model, TaskModel):
        return [f"{module_of(task)}.{name}" for task, one in model.models for name in head_modules(one)]
    plain: Any = cast(Any, model).get_base_model() if is_adapted(model) else model
    if getattr(plain, "has_no_head", False):
        return []
    prefix = plain.base_model_prefix
    bodies = {n for n, child in plain.named_children() if n == prefix or isinstance(child, PreTrainedModel)}
    if not bodies:  # it is the body itself
        return []
    children = [(n, child) for n, child in plain.named_children() if n not in bodies]
    heads = {name: child for name, child in children if any(True for _ in child.parameters())}
    if plain is model:
        return [*heads]
    whole = [child.modules_to_save.default if hasattr(child, "modules_to_save") else child for child in heads.values()]
    return [name for name, module in model.named_modules() if any(module is one for one in whole)]


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer.

    Raises ModelError if it has none that stock transformers can load, or if its config, which says which tokenizer it
    is, cannot be used.
    """
    load_config(folder)
    check_no_code(folder)
    check_tokenizer(folder)
    try:
        return kept_apart(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # the Rust library raises the bare class for a damaged tokenizer.json
        raise ModelError(
            f"{folder} has no usable tokenizer: {first_line(error)}; save its tokenizer there again"
        ) from error


def load_image_processor(folder: Path) -> Any:
    """Load a folder's image processor: Pillow's, on every machine, since torchvision resizes to other bits.

    Raises ModelError if it has none that stock transformers can load.
    """
    check_no_code(folder)
    if not (folder / IMAGE_PROCESSOR).is_file():
        raise ModelError(f"{folder} has no {IMAGE_PROCESSOR}, which says how it reads images; save it there as well")
    read_json(folder / IMAGE_PROCESSOR)
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whatever class the file names
        raise ModelError(
            f"{folder} has no usable image processor: {first_line(error)}; save its {IMAGE_PROCESSOR} there again"
        ) from error


def load_processor(folder: Path) -> Processor:
    """Return what makes a model's inputs; its parts are loaded when they are asked for.

    They raise as `load_tokenizer` and `load_image_processor` do.
    """
    return Processor(
        lambda: load_tokenizer(folder), lambda: load_image_processor(folder), lambda: decoder_start(folder)
    )


def _check_finite(model: nn.Module, folder: Path) -> None:
    unread = unread_names(model)
    for name, tensor in model.state_dict().items():
        if name not in unread and (bad := count_not_finite(tensor)):
            raise not_finite(folder, name, bad, tensor.numel())


def count_not_finite(tensor: torch.Tensor) -> int:
    """Return how many of a tensor's values are NaN or infinite."""
    if not tensor.is_floating_point() or tensor.sum().isfinite():  # cheaper than every value
        return 0
    return int((~tensor.isfinite()).sum())


def not_finite(folder: Path, name: str, bad: int, of: int) -> ModelError:
    """Return the error of a tensor of a folder, so many of whose values are no numbers."""
    return ModelError(
        f"{folder}: tensor {name!r} holds NaN or infinity, {bad} of {of} values: the training that made it broke, or "
        "the file is damaged; give another checkpoint"
    )
