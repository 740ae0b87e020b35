"""The streaming engine on tiny random safetensors: exactness, invariance, crashes, memory, refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftlib.errors import BusyError, IntegrityError, ModelError
from ftlib.merging import files
from ftlib.merging.files import Merged, write_merge
from ftlib.merging.methods import (
    Average,
    Blocks,
    Dare,
    Graft,
    Kernel,
    Lerp,
    Lines,
    ModelStock,
    Slerp,
    TaskArithmetic,
    Ties,
)
from ftlib.merging.methods.kernel import BLOCK
from ftlib.merging.plan import Input, plan_merge
from ftlib.models.folder import weights_digest

KERNELS: list[Kernel] = [
    Lerp(alpha=0.3),
    Lerp(alpha=0.5),
    Lines(alpha=0.8, shallow=0.1),
    Blocks(alphas=(0.1, 0.4, 0.7)),
    Slerp(alpha=0.7),
    Average(ingredients=(0, 1)),
    ModelStock(),
    TaskArithmetic(scale=1.3),
    Ties(density=0.3),
    Dare(drop=0.5, seed=3),
    Graft(scale=0.7),
]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)


def folder_of(path: Path, shards: Sequence[Mapping[str, Tensor]], **config: Any) -> Path:
    """Write a model folder of one or more files; sharded where there are several."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "none", **config}))
    if len(shards) == 1:
        save_file(dict(shards[0]), path / "model.safetensors", metadata={"note": "kept"})
        return path
    places: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(dict(shard), path / name)
        places |= dict.fromkeys(shard, name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


def tensors_of(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Several blocks, a vector, a scalar, an empty one, counters, and a name deep in the network."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "embed.weight": random(3 * BLOCK + 77),
        "layers.0.weight": random(130, 250),
        "layers.1.norm.bias": random(5),
        "layers.2.weight": random(7),
        "scale": random(),
        "none": random(0, 4),
        "steps": torch.tensor([4, 5]),
    }


def inputs(root: Path, count: int = 2, **fields: Any) -> list[Input]:
    return [Input(f"m{i}", folder_of(root / f"m{i}", [tensors_of(i, **fields)])) for i in range(count)]


def write(kernel: Kernel, parts: Sequence[Input], out: Path, **options: Any) -> Merged:
    return write_merge(plan_merge(kernel, parts, reference=1), out, **options)


def loaded(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


@each_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bytes_depend_on_no_chunk_size_worker_count_or_shard_layout(
    kernel: Kernel, dtype: torch.dtype, tmp_path: Path
) -> None:
    count = 2 if kernel.pair or kernel.kind == "average" else 3
    parts = inputs(tmp_path, count, dtype=dtype)
    digests = {
        write(kernel, parts, tmp_path / f"out{chunk}-{workers}", chunk_bytes=chunk, workers=workers).weights
        for chunk, workers in [(1, 1), (200_000, 1), (1 << 20, 2), (1 << 24, 3)]
    }
    shards = [dict([item]) for item in reversed(tensors_of(0, dtype).items())]  # another order of the same names
    sharded = [Input("m0", folder_of(tmp_path / "sharded", shards)), *parts[1:]]
    digests.add(write(kernel, sharded, tmp_path / "from-shards").weights)
    digests.add(write(kernel, parts, tmp_path / "to-shards", shard_bytes=50_000).weights)
    assert len(digests) == 1
    assert {weights_digest(path) for path in tmp_path.glob("out*")} == digests
    assert len(list((tmp_path / "to-shards").glob("*.safetensors"))) > 2
    assert weights_digest(tmp_path / "to-shards") in digests
    assert loaded(tmp_path / "to-shards").keys() == tensors_of(0).keys()


@each_kernel
def test_the_stream_is_the_method_on_whole_tensors(kernel: Kernel, tmp_path: Path) -> None:
    """TIES looks at all tensors together, so here there is only one."""
    from tests.ftlib.merging.methods.test_methods import run

    count = 2 if kernel.pair or kernel.kind == "average" else 3
    name = "layers.2.weight"
    whole = [torch.randn(2 * BLOCK + 9, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    parts = [Input(f"m{i}", folder_of(tmp_path / f"m{i}", [{name: tensor}])) for i, tensor in enumerate(whole)]
    write(kernel, parts, tmp_path / "out", chunk_bytes=1)
    expected = run(kernel, [tensor.numpy() for tensor in whole])
    assert loaded(tmp_path / "out")[name].numpy().tobytes() == expected.tobytes()


SPECIAL = [0.0, -0.0, 1e-45, -1e-40, float("inf"), float("-inf"), float("nan"), 3.4e38, -3.4e38, 1.0]


@settings(max_examples=40)
@given(
    values=st.lists(st.tuples(*[st.floats(-1e3, 1e3, width=32) | st.sampled_from(SPECIAL)] * 2), max_size=20),
    alpha=st.sampled_from([0.0, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_the_ends_are_byte_copies_whatever_they_hold(
    values: list[tuple[float, float]], alpha: float, dtype: torch.dtype
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        pair = [torch.tensor([value[i] for value in values], dtype=torch.float64).to(dtype) for i in (0, 1)]
        parts = [Input(f"m{i}", folder_of(root / f"m{i}", [{"w": end}])) for i, end in enumerate(pair)]
        write(Lerp(alpha=alpha), parts, root / "out")
        mine, theirs = (path / "model.safetensors" for path in (root / "out", parts[int(alpha)].folder))
        assert mine.read_bytes() == theirs.read_bytes()


@settings(max_examples=40)
@given(
    same=st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=12),
    pairs=st.lists(st.tuples(*[st.sampled_from([*SPECIAL[:4], *SPECIAL[7:]])] * 2), max_size=12),
    alpha=st.sampled_from([0.25, 0.5, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_special_values_that_agree_are_kept_and_large_ones_do_not_overflow(
    same: list[float], pairs: list[tuple[float, float]], alpha: float, dtype: torch.dtype
) -> None:
    """Infinities and NaN that both ends hold are kept; 3.4e38 against -3.4e38 overflows in its own type."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        ends = [torch.tensor([*same, *(pair[i] for pair in pairs)]).to(dtype) for i in (0, 1)]
        finite = [end if end.isfinite().all() else end.clamp(-3.3e38, 3.3e38) for end in ends]
        ends = [torch.cat([end[: len(same)], kept[len(same) :]]) for end, kept in zip(ends, finite, strict=True)]
        parts = [Input(f"m{i}", folder_of(root / f"m{i}", [{"w": end}])) for i, end in enumerate(ends)]
        write(Lerp(alpha=alpha), parts, root / "out")
        got, (a, b) = loaded(root / "out")["w"], ends
        assert got[: len(same)].view(torch.uint8).equal(a[: len(same)].view(torch.uint8))
        exact = (1 - alpha) * a.double() + alpha * b.double()
        ulp = torch.finfo(dtype).eps * torch.maximum(a.abs().double(), b.abs().double()) + 1e-38
        assert ((got.double() - exact).abs() <= ulp)[len(same) :].all()


def test_one_end_that_is_not_finite_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    good, bad = torch.ones(4), torch.tensor([1.0, float("inf"), 1.0, 1.0])
    parts = [Input(f"m{i}", folder_of(tmp_path / f"m{i}", [{"w": end}])) for i, end in enumerate((good, bad))]
    with pytest.raises(ModelError, match="'w' would not be finite"):
        write(Lerp(alpha=0.5), parts, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1"]


def test_counters_are_copied_and_a_difference_is_said(tmp_path: Path) -> None:
    for name, shift in (("same", 0), ("other", 1)):
        start, end = tensors_of(0), tensors_of(1)
        end["steps"] = start["steps"] + shift
        end["mask"] = start["mask"] = torch.tensor([True, False])
        folders = [folder_of(tmp_path / name / str(i), [part]) for i, part in enumerate((start, end))]
        parts = [Input(f"m{i}", path) for i, path in enumerate(folders)]
        merged = write(Lerp(alpha=0.5), parts, tmp_path / name / "out")
        assert loaded(tmp_path / name / "out")["steps"].equal(end["steps"])
        assert len(merged.warnings) == shift
    assert merged.warnings == ("tensor 'steps' holds I64 values that differ; 'm1''s were taken",)


def test_metadata_layout_and_keys_are_the_reference_s(tmp_path: Path) -> None:
    tensors = list(tensors_of(1).items())
    parts = inputs(tmp_path)
    parts[1] = Input("m1", folder_of(tmp_path / "sharded", [dict(tensors[:2]), dict(tensors[2:])], note="mine"))
    merged = write(Lerp(alpha=0.5), parts, tmp_path / "out")
    for path in parts[1].folder.iterdir():
        mine = tmp_path / "out" / path.name
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        whole = path.suffix == ".json"
        assert mine.read_bytes()[: None if whole else header] == path.read_bytes()[: None if whole else header]
        assert mine.stat().st_size == path.stat().st_size
    assert merged.tensors == len(tensors)
    assert set(merged.files) == {path.name for path in (tmp_path / "out").iterdir()}


def test_an_alpha_of_0_or_1_for_some_tensors_copies_their_bytes(tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    kernel = Lerp(alpha=0.5, modules={"layers.0.*": 0.0, "*.norm.*": 1.0})
    merged = write(kernel, parts, tmp_path / "out")
    got, a, b = loaded(tmp_path / "out"), *(loaded(part.folder) for part in parts)
    assert got["layers.0.weight"].equal(a["layers.0.weight"])
    assert got["layers.1.norm.bias"].equal(b["layers.1.norm.bias"])
    assert not got["embed.weight"].equal(a["embed.weight"])
    assert merged.copied == 3  # and the counter
    with pytest.raises(ModelError, match=r"pattern 'head\.\*' fits none of the 7 tensors"):
        write(Lerp(alpha=0.5, modules={"head.*": 1.0}), parts, tmp_path / "other")


def test_what_was_overwritten_is_read_again(tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    first = write(Lerp(alpha=0.5), parts, tmp_path / "first").weights
    save_file(tensors_of(7), parts[0].folder / "model.safetensors")
    assert write(Lerp(alpha=0.5), parts, tmp_path / "second").weights != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, r"'m1' is quantised \(gptq\)"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is unset in 'm0' and True in 'm1'"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    parts = [Input(f"m{i}", folder_of(tmp_path / f"m{i}", [tensors_of(i)], **(change if i else {}))) for i in (0, 1)]
    with pytest.raises(ModelError, match=message):
        plan_merge(Lerp(alpha=0.5), parts, reference=1)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "../m0/model.safetensors"}}, "which is not a file in that folder"),
        ({"weight_map": {"w": "/etc/passwd"}}, "which is not a file in that folder"),
        ({"weights": {}}, "is not an index"),
        ([], "is not an index"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(index: object, message: str, tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    (parts[1].folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=message):
        plan_merge(Lerp(alpha=0.5), parts, reference=1)


def test_a_header_that_lies_about_sizes_is_refused(tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    header = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()
    (parts[1].folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(ModelError, match="has 4 bytes, its shape needs 36"):
        plan_merge(Lerp(alpha=0.5), parts, reference=1)


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    plan = plan_merge(Lerp(alpha=0.5), parts, reference=1)
    os.truncate(parts[0].folder / "model.safetensors", 5_000)
    with pytest.raises(IntegrityError, match="cut off inside tensor"):
        write_merge(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tokenizer(path: Path, tokens: Sequence[str]) -> None:
    (path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {token: i for i, token in enumerate(tokens)}}, "added_tokens": []})
    )


def grown(tmp_path: Path, before: Sequence[str], after: Sequence[str], rows: tuple[int, int]) -> list[Input]:
    parts: list[Input] = []
    for i, (tokens, count) in enumerate(zip((before, after), rows, strict=True)):
        tensors = {"embed.weight": torch.full((count, 3), float(i)), "other": torch.full((4,), float(i))}
        parts.append(Input(f"m{i}", folder_of(tmp_path / f"m{i}", [tensors], vocab_size=count)))
        tokenizer(parts[-1].folder, tokens)
    return parts


def test_rows_of_shared_tokens_are_mixed_and_new_ones_are_theta1_s(tmp_path: Path) -> None:
    """Row 2 was padding before and is a token now; rows 4 and 5 are new."""
    parts = grown(tmp_path, ["a", "b"], ["a", "b", "new", "newer", "newest"], (4, 6))
    write(Lerp(alpha=0.25), parts, tmp_path / "out")
    got = loaded(tmp_path / "out")
    assert got["embed.weight"][:, 0].tolist() == [0.25, 0.25, 1.0, 1.0, 1.0, 1.0]
    assert got["other"].tolist() == [0.25] * 4


@pytest.mark.parametrize("after", [["b", "a", "c"], ["a", "c", "d"]])
def test_tokens_in_another_order_are_refused(after: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="are not at their place"):
        plan_merge(Lerp(alpha=0.5), grown(tmp_path, ["a", "b"], after, (2, 3)), reference=1)


def test_a_shape_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    parts = grown(tmp_path, ["a"], ["a", "b"], (4, 5))
    with pytest.raises(ModelError, match=r"'embed.weight' is F32\[4, 3\] in 'm0' but F32\[5, 3\] in 'm1'"):
        plan_merge(Slerp(alpha=0.5), parts, reference=1)


def slowly(out: str, parts: list[tuple[str, str]], ready: Any) -> None:
    """Write in a process of its own, and say when half is on the disk."""
    take = files._FileSink.take

    def slow(self: Any, planned: Any, first: int, values: Tensor) -> None:
        take(self, planned, first, values)
        if planned.name == "layers.0.weight":
            ready.set()
            time.sleep(60)

    files._FileSink.take = slow
    write(Lerp(alpha=0.5), [Input(name, Path(folder)) for name, folder in parts], Path(out))


def test_kill_9_while_writing_leaves_nothing_visible_and_the_next_attempt_works(tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(
        target=slowly, args=(str(tmp_path / "out"), [(part.name, str(part.folder)) for part in parts], ready)
    )
    process.start()
    assert ready.wait(60)
    with pytest.raises(BusyError, match="another process is writing"):
        write(Lerp(alpha=0.5), parts, tmp_path / "out")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.partial").is_dir()
    write(Lerp(alpha=0.5), parts, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "out"]


def test_a_folder_with_anything_in_it_is_not_touched(tmp_path: Path) -> None:
    parts = inputs(tmp_path)
    with pytest.raises(ModelError, match="is not empty"):
        write(Lerp(alpha=0.5), parts, parts[0].folder)
    (tmp_path / "empty").mkdir()
    assert write(Lerp(alpha=0.5), parts, tmp_path / "empty").tensors == 7


@pytest.mark.parametrize(
    ("kernel", "made"),
    [
        (Lerp(alpha=0.5), 0.5),
        (Lines(alpha=0.5, shallow=0.5), 0.25),
        (Blocks(alphas=(0.125, 0.5, 1.0)), 0.125),
        (Graft(scale=0.5), 2.5),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_memory_does_not_grow_with_the_model(kernel: Kernel, made: float, tmp_path: Path) -> None:
    """100 MB of weights through 1 MiB buffers: RssAnon may grow by a few buffers, not by the file.

    A small merge of the same kernel goes first: what its code imports and keeps is no memory of the model. Two threads
    hold a buffer for each input, for the result and for what a kernel needs; with huge pages each takes 2 MiB.
    """
    parts: list[Input] = []
    for i in range(2 + kernel.strangers):
        layers = {f"layers.{layer}.w": torch.full((3,), i, dtype=torch.float32) for layer in (0, 1, 2)}
        large = {"layers.0.w": torch.full((25_000_000,), i, dtype=torch.float32)}
        parts.append(Input(f"m{i}", folder_of(tmp_path / f"m{i}", [{**layers, **large}])))
    plan = plan_merge(kernel, parts, reference=1)
    small = [Input(f"w{i}", folder_of(tmp_path / f"w{i}", [layers])) for i in range(len(parts))]
    write_merge(plan_merge(kernel, small, reference=1), tmp_path / "warm")
    before, peak, done = anonymous_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    write_merge(plan, tmp_path / "out")
    done.set()
    watcher.join()
    assert peak[0] - before < 48 * 2**20
    assert np.unique(loaded(tmp_path / "out")["layers.0.w"].numpy()).tolist() == [made]


def anonymous_memory() -> int:
    """Return RssAnon in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
