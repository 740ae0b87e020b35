"""The kernel against numpy in float64, against itself along another path, and against peft; every refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from ftlib.artifacts import Checkpoint
from ftlib.errors import IntegrityError, ModelError, ReglageError
from ftlib.testing import LABELS, tiny_checkpoint
from ftlib.training import mix
from ftlib.training.mix import check_mixable, mix_into, write_mix
from ftlib.training.model import load_model, weights_digest

DYADIC = [0.125, 0.25, 0.75, 0.875]  # 1 - alpha is exact; at 0.5 lerp takes one formula for both directions


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("ends")
    start = tiny_checkpoint(folder / "start", phase="probe")
    return start, tiny_checkpoint(folder / "end", phase="tune", start=start, seed=1)


def checkpoint(folder: Path, tensors: dict[str, torch.Tensor], like: Checkpoint, **update: Any) -> Checkpoint:
    shutil.copytree(like.path / "model", folder / "model")
    save_file(tensors, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    return like.model_copy(update={"uri": str(folder), "weights": weights_digest(folder / "model"), **update})


def loaded(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.path / "model" / "model.safetensors")


def test_the_ends_are_byte_copies(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    for alpha, end in zip((0.0, 1.0), ends, strict=True):
        write_mix(*ends, alpha, tmp_path / f"{alpha:g}")
        for file in (end.path / "model").iterdir():
            assert (tmp_path / f"{alpha:g}" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_mixing_in_memory_gives_the_ends_bit_for_bit(ends: tuple[Checkpoint, Checkpoint], alpha: float) -> None:
    model = load_model(ends[0].path / "model", "labeled")
    mix_into(model, *ends, 0.37)
    mix_into(model, *ends, alpha)
    for name, tensor in loaded(ends[int(alpha)]).items():
        assert model.state_dict()[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.9])
def test_a_mix_is_the_float64_reference_to_the_last_bit_of_the_larger_end(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, alpha: float
) -> None:
    write_mix(*ends, alpha, tmp_path / "mix")
    written, a, b = load_file(tmp_path / "mix" / "model.safetensors"), *map(loaded, ends)
    for name in a:
        x, y = a[name].numpy(), b[name].numpy()
        reference = (1 - alpha) * x.astype(np.float64) + alpha * y.astype(np.float64)
        ulp = np.spacing(np.maximum(np.abs(x), np.abs(y)))
        # fp32 rounds alpha, the difference and the sum; 1.3 is the worst of a million values
        assert (np.abs(written[name].numpy() - reference) <= 1.5 * ulp).all(), name


@pytest.mark.parametrize("chunk", [64, 4096, 1 << 20])
def test_streaming_and_memory_agree_bit_for_bit_at_any_chunk_size(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(mix, "CHUNK_BYTES", chunk)
    write_mix(*ends, 0.3, tmp_path / "mix")
    model = load_model(ends[0].path / "model", "labeled")
    mix_into(model, *ends, 0.3)
    for name, tensor in load_file(tmp_path / "mix" / "model.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_stock_transformers_loads_what_was_written(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    write_mix(*ends, 0.5, tmp_path / "mix")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mix")
    assert tuple(model.config.id2label.values()) == LABELS
    assert AutoTokenizer.from_pretrained(tmp_path / "mix")("card")["input_ids"]


def test_shards_do_not_change_a_mix(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start, end = ends
    sharded = tmp_path / "sharded"
    load_model(start.path / "model", "labeled").save_pretrained(sharded / "model", max_shard_size="20KB")
    assert len(list((sharded / "model").glob("*.safetensors"))) > 2
    write_mix(*ends, 0.4, tmp_path / "whole")
    write_mix(start.model_copy(update={"uri": str(sharded)}), end, 0.4, tmp_path / "from-shards")
    assert weights_digest(tmp_path / "from-shards") == weights_digest(tmp_path / "whole")


FLOATS = arrays.arrays(np.float32, 40, elements=st.floats(-100, 100, width=32))


@settings(max_examples=60, deadline=None)
@given(a=FLOATS, b=FLOATS, alpha=st.sampled_from(DYADIC), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_kernel_is_symmetric_idempotent_and_stays_between(
    a: np.ndarray, b: np.ndarray, alpha: float, dtype: torch.dtype
) -> None:
    x, y = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
    mixed = mix._mixed("t", x, y, alpha)
    assert torch.equal(mixed, mix._mixed("t", y, x, 1 - alpha))
    assert mix._mixed("t", x, x.clone(), alpha).view(torch.uint8).equal(x.view(torch.uint8))
    ulp = torch.finfo(dtype).eps * torch.maximum(x.abs(), y.abs())
    assert (mixed >= torch.minimum(x, y) - ulp).all()
    assert (mixed <= torch.maximum(x, y) + ulp).all()


def test_bf16_is_rounded_once(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=generator).bfloat16()
    y = (x.float() + 0.1 * torch.randn(20_000, generator=generator)).bfloat16()
    exact = (0.7 * x.double() + 0.3 * y.double()).bfloat16()
    assert (mix._mixed("t", x, y, 0.3) != exact).double().mean() < 1e-3
    naive = (1 - 0.3) * x + 0.3 * y
    assert (naive != exact).double().mean() > 0.1  # why it is not written that way


def test_values_that_agree_survive_even_where_arithmetic_would_lose_them() -> None:
    same = torch.tensor([-0.0, float("inf"), float("-inf"), 3e38])
    assert mix._mixed("t", same, same.clone(), 0.5).numpy().tobytes() == same.numpy().tobytes()


def test_a_frozen_tensor_is_untouched(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start, end = ends
    frozen = "bert.embeddings.word_embeddings.weight"
    half = checkpoint(tmp_path / "end", {**loaded(end), frozen: loaded(start)[frozen]}, end)
    write_mix(start, half, 0.3, tmp_path / "mix")
    assert load_file(tmp_path / "mix" / "model.safetensors")[frozen].equal(loaded(start)[frozen])


def _without(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "classifier.bias"}


BAD_TENSORS: list[tuple[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]]] = [
    (r"1 tensors are only in 'probe': classifier\.bias", _without),
    (r"1 tensors are only in 'tune': stray", lambda t: t | {"stray": torch.zeros(2)}),
    (
        r"'classifier\.bias' is F32\[3\] in 'probe' but F32\[4\] in 'tune'",
        lambda t: t | {"classifier.bias": torch.zeros(4)},
    ),
    (r"F32\[3\] in 'probe' but F16\[3\]", lambda t: t | {"classifier.bias": torch.zeros(3, dtype=torch.float16)}),
]


@pytest.mark.parametrize(("message", "break_"), BAD_TENSORS)
def test_tensors_that_do_not_match_are_named_and_nothing_is_written(
    ends: tuple[Checkpoint, Checkpoint],
    tmp_path: Path,
    message: str,
    break_: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    broken = checkpoint(tmp_path / "end", break_(loaded(ends[1])), ends[1])
    with pytest.raises(ModelError, match=message):
        write_mix(ends[0], broken, 0.5, tmp_path / "out" / "mix")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("message", "update"),
    [
        ("was not trained from 'probe'", {"parent": "0" * 64}),
        ("was not trained from 'probe'", {"parent": None}),
        ("different labels, or another order", {"labels": tuple(reversed(LABELS))}),
        ("different tokenizers", {"tokenizer": "another"}),
    ],
)
def test_records_that_do_not_match_are_refused(
    ends: tuple[Checkpoint, Checkpoint], message: str, update: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=message):
        check_mixable(ends[0], ends[1].model_copy(update=update))


def test_a_random_head_is_no_end(ends: tuple[Checkpoint, Checkpoint]) -> None:
    with pytest.raises(ModelError, match=r"random head.*linear_probe"):
        check_mixable(ends[0].model_copy(update={"fresh_head": True}), ends[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_end_that_is_not_finite_is_refused_by_both_paths(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, value: float
) -> None:
    bias = loaded(ends[1])["classifier.bias"].clone()
    bias[1] = value
    broken = checkpoint(tmp_path / "end", {**loaded(ends[1]), "classifier.bias": bias}, ends[1])
    with pytest.raises(ModelError, match=r"'classifier\.bias' is not finite"):
        write_mix(ends[0], broken, 0.5, tmp_path / "mix")
    assert [path.name for path in tmp_path.iterdir()] == ["end"]
    with pytest.raises(ModelError, match=r"'classifier\.bias' is not finite"):
        mix_into(load_model(ends[0].path / "model", "labeled"), ends[0], broken, 0.5)


def test_integers_lie_on_no_line() -> None:
    table = torch.arange(4)
    assert mix._mixed("t", table, table.clone(), 0.5).equal(table)
    assert mix._mixed("steps", torch.tensor(3), torch.tensor(7), 0.5) == 7
    with pytest.raises(ModelError, match="holds integers that differ"):
        mix._mixed("t", table, table + 1, 0.5)


def test_a_quantised_model_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    pair: list[Checkpoint] = []
    for i, end in enumerate(ends):
        tensors = {**loaded(end), "packed": torch.zeros(4, 4).to(torch.float8_e4m3fn)}
        pair.append(checkpoint(tmp_path / str(i), tensors, end))
    with pytest.raises(ModelError, match=r"1 tensors are quantised.*packed \(F8_E4M3\)"):
        check_mixable(pair[0], pair[1].model_copy(update={"parent": pair[0].weights}))


def test_a_cut_off_file_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    cut = checkpoint(tmp_path / "end", loaded(ends[1]), ends[1])
    file = cut.path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match="cut off"):
        write_mix(ends[0], cut, 0.5, tmp_path / "mix")


@pytest.mark.parametrize(
    "data", [b"", b"\x05", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x0e\0\0\0\0\0\0\0" + b'{"a":{"b":[]}}']
)
def test_a_file_that_is_no_safetensors_is_one_clear_line(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, data: bytes
) -> None:
    broken = checkpoint(tmp_path / "end", loaded(ends[1]), ends[1])
    (broken.path / "model" / "model.safetensors").write_bytes(data)
    with pytest.raises(ReglageError, match="is not a safetensors file") as caught:
        check_mixable(ends[0], broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_lies_between_the_ends(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, alpha: float) -> None:
    with pytest.raises(ModelError, match="between 0"):
        write_mix(*ends, alpha, tmp_path / "mix")


def test_an_existing_folder_is_not_touched(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exists already"):
        write_mix(*ends, 0.5, tmp_path)


def test_a_model_of_another_shape_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "lm", ()).path / "model", "tokens")
    with pytest.raises(ModelError, match="tensors the model does not have"):
        mix_into(model, *ends, 0.5)


def test_tied_weights_are_mixed_once_and_stay_tied(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", ())
    config = json.loads((start.path / "model" / "config.json").read_text())
    tensors = loaded(start)
    tensors.pop("lm_head.weight", None)
    (start.path / "model" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    save_file(tensors, start.path / "model" / "model.safetensors", metadata={"format": "pt"})
    end = tiny_checkpoint(tmp_path / "end", (), start=start, seed=1)
    assert "lm_head.weight" not in loaded(end)
    model = load_model(start.path / "model", "tokens")
    mix_into(model, start, end, 0.5)
    state = model.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    expected = (loaded(start)["model.embed_tokens.weight"] + loaded(end)["model.embed_tokens.weight"]) / 2
    assert torch.allclose(state["lm_head.weight"], expected, atol=1e-7)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_merged_lora_path_is_peft_s_scaled_adapter(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, rslora: bool
) -> None:
    start = ends[0]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], use_rslora=rslora)
    adapted = peft.get_peft_model(load_model(start.path / "model", "labeled"), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    ids = torch.randint(5, 100, (4, 9), generator=generator)
    with torch.no_grad(), peft.helpers.rescale_adapter_scale(adapted, 0.4):
        expected = adapted(input_ids=ids).logits
    merged = adapted.merge_and_unload()
    end = checkpoint(tmp_path / "end", merged.state_dict(), ends[1])
    model = load_model(start.path / "model", "labeled")
    mix_into(model, start, end, 0.4)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-6, rtol=0)
