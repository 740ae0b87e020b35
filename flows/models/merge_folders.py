"""Merge two or more checkpoints into a new folder, for `reglage interpolate` and the flow of that name."""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.models.places import model_folder
from ftlib.config import user_path
from ftlib.errors import ModelError, RecipeError
from ftlib.merging.batch_norm import RUNNING, moved_layers
from ftlib.merging.methods import METHODS, Kernel, Merge
from ftlib.merging.methods.kernel import SENSIBLE
from ftlib.merging.plan import Input, MergePlan, plan_merge
from ftlib.merging.recorded import check_recorded, recorded
from ftlib.models.folder import is_adapter
from ftlib.recipe.file import explain
from ftlib.storage import Place
from ftlib.storage.model_folders import check_free, put_folder
from ftlib.wording import counted, some
from ftlib.workspace import make_cache, user_cache

Look = Callable[[Sequence[Path], Path], None]


def _unseen(folders: Sequence[Path], written: Path) -> None:
    del folders, written


def merge_folders(
    checkpoints: Sequence[str],
    out: str,
    kernel: Kernel,
    registry: Place,
    *,
    max_shard_mb: int | None = None,
    as_adapter: bool = False,
    workers: int = 2,
    look: Look = _unseen,
) -> dict[str, Any]:
    """Write what a method makes of model folders or versions to a new folder; return what is to be said of it.

    `look` is shown the folders that were merged and the one that was written, before a bucket's is uploaded. Raises
    ModelError, RecipeError or StorageError; then there is no new folder.
    """
    place = registry.beside(out)
    folders = [model_folder(spec, registry) for spec in checkpoints]
    named = list(zip(checkpoints, folders, strict=True))
    lineage_known = check_recorded(kernel, named)
    began = time.monotonic()
    with _written(place) as target:
        if as_adapter:
            result = _scaled_adapter(kernel, folders, target, max_shard_mb)
        else:
            shard_bytes = max_shard_mb and max_shard_mb * 10**6
            result = _merged_weights(kernel, named, target, shard_bytes, workers)
        look(folders, target)
    return {
        **result,
        "folder": place.uri if place.remote else str(user_path(out).absolute()),
        "merge": kernel.model_dump(mode="json"),
        "checkpoints": list(checkpoints),
        "lineage_known": lineage_known,
        "seconds": round(time.monotonic() - began, 3),
    }


def summary(record: dict[str, Any]) -> str:
    """Say in a line what was written where."""
    if "lora_alpha" in record:
        alpha = record["lora_alpha"]  # other types have none, and are only copied
        what = "a copy" if alpha is None else f"lora_alpha {alpha:g}, {len(record['mixed'])} tensors mixed with A's"
        return f"the adapter at {_place(record['merge'])} is in {record['folder']}: {what}"
    what = f"{record['tensors']} tensors, {record['copied']} of them copied, {record['bytes'] / 1e6:.1f} MB"
    return f"{record['merge']['kind']} of {', '.join(record['checkpoints'])} is in {record['folder']}: {what}"


def _place(merge: dict[str, Any]) -> str:
    """Say where between A and B a method puts the result: `alpha 0.3`."""
    numbers = {name: value for name, value in merge.items() if name != "kind" and value not in ({}, [])}
    shown = {name: f"{n:g}" if isinstance(n, float) else str(n) for name, n in numbers.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def notes(record: dict[str, Any]) -> list[str]:
    """Return what is to be known of a merge beside its summary, and is no warning."""
    said = list[str]()
    if not record["lineage_known"]:
        said.append("what these were trained from is not recorded; that they belong together is your word")
    if "lora_alpha" not in record and record["copied"] == record["tensors"] and record["merge"]["kind"] == "lerp":
        said.append(f"alpha {record['merge']['alpha']:g} is a byte copy of {'AB'[record['merge']['alpha'] != 0.0]}")
    return said


def kernel_of(method: str, count: int, numbers: dict[str, Any]) -> Kernel:
    """Return a method with its numbers, for so many checkpoints; None is the method's own. Raises RecipeError."""
    if count < 2:
        raise RecipeError(f"interpolate needs at least two checkpoints, got {count}; name A and B")
    if method not in METHODS:
        raise RecipeError(f"method {method!r}: unknown; allowed: {', '.join(METHODS)}")
    given = METHODS[method].usual(count) | {name: value for name, value in numbers.items() if value is not None}
    if METHODS[method].pair and count != 2:
        raise RecipeError(f"method {method} takes two checkpoints, got {count}; `average` and others take more")
    if count < (least := METHODS[method].least_checkpoints):
        raise RecipeError(
            f"method {method} takes at least {least} checkpoints, got {count}; name another fine-tune of A"
        )
    if (strangers := METHODS[method].strangers) and count != 2 + strangers:
        raise RecipeError(f"method {method} takes {2 + strangers} checkpoints, BASE TUNED INSTRUCT, got {count}")
    form, data = TypeAdapter[Kernel](Merge), {**given, "kind": method}
    try:
        kernel = form.validate_python(data)
    except ValidationError as error:
        lines = explain(error.errors(), data, form.json_schema())
        raise RecipeError("\n".join(f"method {method}: {line}" for line in lines)) from None
    if kernel.leaves_out(count):
        raise RecipeError(f"method {method} takes all {count} checkpoints; leave out what should not be in it")
    return kernel


def given_options(options: Sequence[str]) -> dict[str, Any]:
    """Read further numbers of a method, each as name=value. Raises RecipeError."""
    values: dict[str, Any] = {}
    for option in options:
        name, separator, value = option.partition("=")
        try:
            values[name] = json.loads(value)
        except ValueError:
            separator = ""
        if not separator:
            raise RecipeError(f"option {option!r}: write name=value with a JSON value, for example density=0.3")
        if own := {"kind": "method", "alpha": "alpha", "scale": "scale"}.get(name):
            raise RecipeError(f"option {option!r}: that is what {own} says; leave the option out")
    return values


def _merged_weights(
    kernel: Kernel, named: list[tuple[str, Path]], target: Path, shard_bytes: int | None, workers: int
) -> dict[str, Any]:
    """Stream the merge; an adapter among the inputs is merged into the first, in a folder of its own meanwhile."""
    adapters = [folder for _, folder in named if is_adapter(folder)]
    (base_name, base), *_ = named
    if is_adapter(base):
        raise ModelError(f"{base_name!r} is an adapter, which stands on another model: give that model as A")
    notes = list[str]()
    with ExitStack() as stack:
        whole: dict[Path, Path] = {}
        if adapters:
            from ftlib.merging.adapters import stands_elsewhere, write_merged
            from ftlib.merging.files import scratch_beside

            scratch = stack.enter_context(scratch_beside(target))
            notes_of = {adapter: stands_elsewhere(adapter, base) for adapter in dict.fromkeys(adapters)}
            for i, adapter in enumerate(notes_of):
                whole[adapter] = scratch / str(i)
                write_merged(adapter, base, whole[adapter])
                notes += notes_of[adapter]
            whole[base], warnings = _completed(adapters[0], base, scratch)
            notes += warnings
        inputs = [Input(spec, whole.get(folder, folder)) for spec, folder in named]
        plan = plan_merge(kernel, inputs, reference=kernel.reference)
        notes += [*_mixed_statistics(plan), *_apart(kernel, inputs)]
        from ftlib.merging.files import write_merge  # torch, which no refusal needs

        merged = write_merge(plan, target, shard_bytes=shard_bytes, workers=workers, record=_record(kernel, named))
        return {**merged.model_dump(mode="json"), "warnings": [*notes, *merged.warnings]}


def _apart(kernel: Kernel, inputs: Sequence[Input]) -> list[str]:
    """Say how far a graft's base lies from what its tuning is carried to. Raises ModelError if that is too far."""
    if (most := kernel.apart) is None:
        return []
    from ftlib.merging.layer_distances import apart

    base, _, onto = inputs
    far = apart((base.name, base.folder), (onto.name, onto.folder))
    said = f"{onto.name} lies {far:.4f} from {base.name}, by sum |a - b| / (sum |a| + sum |b|)"
    if far > most:
        raise ModelError(
            f"{said}, and {most:g} is allowed: what one learns means little to the other; give the "
            "instruct model of this very base, or raise it: --option at_most_apart=0.2"
        )
    return [f"{said}; grafts are sensible below {SENSIBLE:g}"]


def _mixed_statistics(plan: MergePlan) -> list[str]:
    """Say which running statistics are mixed: they are not those of the mixed weights, and no rows are here."""
    layers = moved_layers([item.folder for item in plan.inputs])
    mixed = {tensor.name for tensor in plan.tensors if tensor.mixes}
    if not any(f"{layer}.{name}" in mixed for layer in layers for name in RUNNING):
        return []
    return [
        f"the running statistics of {counted(len(layers), 'BatchNorm layer')} are mixed, and what the mixed weights "
        "compute has others: a run measures them again on its training rows"
    ]


def _record(kernel: Kernel, named: list[tuple[str, Path]]) -> dict[str, Any]:
    """Say what is merged and how. Digests are those on record: hashing the inputs would take longer than the merge."""
    parts = [(spec, recorded(folder)) for spec, folder in named]
    return {
        "merge": kernel.model_dump(mode="json"),
        "checkpoints": [{"name": spec, "weights": record and record.weights} for spec, record in parts],
        "reglage": version("reglage"),
    }


def _completed(adapter: Path, base: Path, scratch: Path) -> tuple[Path, list[str]]:
    """Return A as an adapter's start: where A has no head, with the adapter's, which is the same at every alpha."""
    from ftlib.merging.adapters import lacks_head, write_completed

    if not lacks_head(adapter, base):
        return base, []
    given = write_completed(adapter, base, scratch / "start")
    return scratch / "start", [
        f"A has no {some(sorted(given), 3)}: at every alpha they are the adapter's, whose head was there first"
    ]


def _scaled_adapter(kernel: Kernel, folders: list[Path], target: Path, max_shard_mb: int | None) -> dict[str, Any]:
    from ftlib.merging.adapters import read_adapter, stands_elsewhere, write_scaled
    from ftlib.merging.files import new_model_folder, scratch_beside

    if not kernel.scales_adapter or max_shard_mb:
        raise RecipeError(
            "one adapter is moved between A and itself: lerp, lines and blocks go with it, and no shards; "
            "leave as-adapter out to write merged weights"
        )
    base, adapter = folders
    notes = stands_elsewhere(adapter, base)
    with scratch_beside(target) as scratch, new_model_folder(target) as work:
        start, warnings = _completed(adapter, base, scratch)
        mixed = write_scaled(adapter, start, kernel, work)
    return {"lora_alpha": read_adapter(target).get("lora_alpha"), "mixed": mixed, "warnings": [*notes, *warnings]}


@contextmanager
def _written(out: Place) -> Generator[Path]:
    """Give the folder to write; one of a bucket is written here first, and uploaded if the block succeeds."""
    if not out.remote:
        yield user_path(out.key).absolute()
        return
    check_free(out)
    from ftlib.merging.files import scratch_beside

    with scratch_beside(
        make_cache(user_cache()) / "outgoing" / hashlib.sha256(out.uri.encode()).hexdigest()[:16]
    ) as scratch:
        folder = scratch / "written"
        yield folder
        put_folder(folder, out)
