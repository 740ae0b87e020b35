"""Candidates of real model folders: exact ends, memory against disk, against peft; every refusal."""

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
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from ftlib.errors import ModelError, ReglageError
from ftlib.kinds.loading import load_model
from ftlib.merging.candidate_weights import check_candidate, mix_into, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import weights_digest
from ftlib.testing import LABELS, tiny_checkpoint


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
        write_candidate(Candidate.between(*ends, alpha), tmp_path / f"{alpha:g}")
        for file in (end.path / "model").iterdir():
            assert (tmp_path / f"{alpha:g}" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_mixing_in_memory_gives_the_ends_bit_for_bit(ends: tuple[Checkpoint, Checkpoint], alpha: float) -> None:
    model = load_model(ends[0].path / "model", "labeled")
    mix_into(model, Candidate.between(*ends, 0.37))
    mix_into(model, Candidate.between(*ends, alpha))
    for name, tensor in loaded(ends[int(alpha)]).items():
        assert model.state_dict()[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.9])
def test_a_mix_is_the_float64_reference_rounded_once(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, alpha: float
) -> None:
    write_candidate(Candidate.between(*ends, alpha), tmp_path / "mix")
    written, a, b = load_file(tmp_path / "mix" / "model.safetensors"), *map(loaded, ends)
    for name in a:
        x, y = a[name].numpy().astype(np.float64), b[name].numpy().astype(np.float64)
        reference, got = (1 - alpha) * x + alpha * y, written[name].numpy()
        # Half a unit and a hair: a tenth of a difference of five units is a tie that fp64 cannot decide.
        assert (np.abs(got - reference) <= 0.500001 * np.spacing(np.abs(got))).all(), name


def test_memory_and_disk_agree_bit_for_bit(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    merged = write_candidate(Candidate.between(*ends, 0.3), tmp_path / "mix")
    model = load_model(ends[0].path / "model", "labeled")
    mix_into(model, Candidate.between(*ends, 0.3))
    for name, tensor in load_file(tmp_path / "mix" / "model.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert merged.weights == weights_digest(tmp_path / "mix")


def test_stock_transformers_loads_what_was_written(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    write_candidate(Candidate.between(*ends, 0.5), tmp_path / "mix")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mix")
    assert tuple(model.config.id2label.values()) == LABELS
    assert AutoTokenizer.from_pretrained(tmp_path / "mix")("card")["input_ids"]


def test_shards_do_not_change_a_mix(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start, end = ends
    sharded = tmp_path / "sharded"
    load_model(start.path / "model", "labeled").save_pretrained(sharded / "model", max_shard_size="20KB")
    assert len(list((sharded / "model").glob("*.safetensors"))) > 2
    write_candidate(Candidate.between(*ends, 0.4), tmp_path / "whole")
    write_candidate(
        Candidate.between(start.model_copy(update={"uri": str(sharded)}), end, 0.4), tmp_path / "from-shards"
    )
    assert weights_digest(tmp_path / "from-shards") == weights_digest(tmp_path / "whole")


def test_a_frozen_tensor_is_untouched(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start, end = ends
    frozen = "bert.embeddings.word_embeddings.weight"
    half = checkpoint(tmp_path / "end", {**loaded(end), frozen: loaded(start)[frozen]}, end)
    write_candidate(Candidate.between(start, half, 0.3), tmp_path / "mix")
    assert load_file(tmp_path / "mix" / "model.safetensors")[frozen].equal(loaded(start)[frozen])


def _without(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "classifier.bias"}


BAD_TENSORS: list[tuple[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]]] = [
    (r"1 tensors are only in 'probe', not in 'tune': classifier\.bias", _without),
    (r"1 tensors are only in 'tune', not in 'probe': stray", lambda t: t | {"stray": torch.zeros(2)}),
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
        write_candidate(Candidate.between(ends[0], broken, 0.5), tmp_path / "out" / "mix")
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
        check_candidate(Candidate.between(ends[0], ends[1].model_copy(update=update), 0.5))


def test_a_random_head_is_no_end(ends: tuple[Checkpoint, Checkpoint]) -> None:
    with pytest.raises(ModelError, match=r"random head.*linear_probe"):
        check_candidate(Candidate.between(ends[0].model_copy(update={"fresh_head": True}), ends[1], 0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_end_that_is_not_finite_is_refused_by_both_paths(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, value: float
) -> None:
    bias = loaded(ends[1])["classifier.bias"].clone()
    bias[1] = value
    broken = checkpoint(tmp_path / "end", {**loaded(ends[1]), "classifier.bias": bias}, ends[1])
    with pytest.raises(ModelError, match=r"'classifier\.bias' would not be finite"):
        write_candidate(Candidate.between(ends[0], broken, 0.5), tmp_path / "mix")
    assert [path.name for path in tmp_path.iterdir()] == ["end"]
    with pytest.raises(ModelError, match=r"'classifier\.bias' would not be finite"):
        mix_into(load_model(ends[0].path / "model", "labeled"), Candidate.between(ends[0], broken, 0.5))


def test_a_quantised_model_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    pair: list[Checkpoint] = []
    for i, end in enumerate(ends):
        tensors = {**loaded(end), "packed": torch.zeros(4, 4).to(torch.float8_e4m3fn)}
        pair.append(checkpoint(tmp_path / str(i), tensors, end))
    with pytest.raises(ModelError, match=r"'probe' is quantised \(1 tensors, packed \(F8_E4M3\)\)"):
        check_candidate(Candidate.between(pair[0], pair[1].model_copy(update={"parent": pair[0].weights}), 0.5))


def test_a_cut_off_file_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    cut = checkpoint(tmp_path / "end", loaded(ends[1]), ends[1])
    file = cut.path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="cut off"):
        write_candidate(Candidate.between(ends[0], cut, 0.5), tmp_path / "mix")


@pytest.mark.parametrize(
    "data", [b"", b"\x05", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x0e\0\0\0\0\0\0\0" + b'{"a":{"b":[]}}']
)
def test_a_file_that_is_no_safetensors_is_one_clear_line(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, data: bytes
) -> None:
    broken = checkpoint(tmp_path / "end", loaded(ends[1]), ends[1])
    (broken.path / "model" / "model.safetensors").write_bytes(data)
    with pytest.raises(ReglageError, match=r"is not a safetensors file|is empty") as caught:
        check_candidate(Candidate.between(ends[0], broken, 0.5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_lies_between_the_ends(ends: tuple[Checkpoint, Checkpoint], alpha: float) -> None:
    with pytest.raises(ValidationError, match="alpha"):
        Candidate.between(*ends, alpha)


def test_an_existing_folder_is_not_touched(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ModelError, match="exists already"):
        write_candidate(Candidate.between(*ends, 0.5), tmp_path)


def test_a_model_of_another_shape_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "lm", ()).path / "model", "tokens")
    with pytest.raises(ModelError, match="tensors the model does not have"):
        mix_into(model, Candidate.between(*ends, 0.5))


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
    mix_into(model, Candidate.between(start, end, 0.5))
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
    mix_into(model, Candidate.between(start, end, 0.4))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-6, rtol=0)
