"""Shards hold what the file held, load with stock transformers, and stay the same where the model did."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from ftlib.errors import ModelError
from ftlib.fingerprint import file_digest
from ftlib.models.folder import tensor_files, tensor_spans, weight_files, weights_digest
from ftlib.models.shards import shard_layout, write_shards
from ftlib.models.tensor_files import INDEX
from ftlib.testing import LABELS, tiny_classifier


def layered(folder: Path, layers: int = 8, width: int = 64, labels: int = 3, changed: int | None = None) -> Path:
    """A model folder with equal layers, a norm, and a head that sorts before them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"model.layers.{n}.w": torch.randn(width, width, generator=generator) for n in range(layers)}
    tensors["model.norm.weight"] = torch.ones(width, dtype=torch.bfloat16)
    tensors["classifier.weight"] = torch.zeros(labels, width)
    if changed is not None:
        tensors[f"model.layers.{changed}.w"] += 1
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {file_digest(path): path.name for path in weight_files(folder)}


def everything(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in weight_files(folder) for name, tensor in load_file(path).items()}


LAYER = 64 * 64 * 4


def test_tensors_are_what_they_were(tmp_path: Path):
    folder = layered(tmp_path / "m")
    before, digest = load_file(folder / "model.safetensors"), weights_digest(folder)
    write_shards(folder, LAYER)
    after = everything(folder)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor)
    assert weights_digest(folder) == digest
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"model-{n:05d}-of-00009.safetensors" for n in range(1, 10)),
        INDEX,
    ]


def test_one_layer_in_eight_that_changed_is_one_shard(tmp_path: Path):
    first, second = layered(tmp_path / "a"), layered(tmp_path / "b", changed=5)
    write_shards(first, LAYER)
    write_shards(second, LAYER)
    new = digests(second).keys() - digests(first).keys()
    sent = sum((second / digests(second)[digest]).stat().st_size for digest in new)
    assert len(new) == 1
    assert sent <= 1.05 * LAYER


def test_another_label_moves_no_border(tmp_path: Path):
    first, second = layered(tmp_path / "a"), layered(tmp_path / "b", labels=40)
    write_shards(first, 3 * LAYER)
    write_shards(second, 3 * LAYER)
    assert len(digests(second).keys() - digests(first).keys()) == 1


def test_layer_ten_comes_after_layer_nine(tmp_path: Path):
    folder = layered(tmp_path / "m", layers=12)
    write_shards(folder, 2 * LAYER)
    names = [[n for n in load_file(path) if "layers" in n] for path in weight_files(folder)]
    assert names[:6] == [[f"model.layers.{n}.w", f"model.layers.{n + 1}.w"] for n in range(0, 12, 2)]


@pytest.mark.parametrize("most", [1, 4_000, 10**9])
def test_stock_transformers_loads_the_same_model(tmp_path: Path, most: int):
    folder = tiny_classifier(tmp_path / "m", LABELS)
    ids = torch.arange(8)[None]
    before = AutoModelForSequenceClassification.from_pretrained(folder)(input_ids=ids).logits
    write_shards(folder, most)
    assert (folder / INDEX).exists() == (most < 10**9)
    after = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)(input_ids=ids).logits
    assert torch.equal(before, after)


def test_cutting_is_idempotent_and_can_be_undone(tmp_path: Path):
    folder = layered(tmp_path / "m")
    digest = weights_digest(folder)
    write_shards(folder, LAYER)
    before = digests(folder)
    write_shards(folder, LAYER)
    assert digests(folder) == before
    write_shards(folder, 10**9)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors"]
    assert weights_digest(folder) == digest


def test_a_file_that_was_cut_off(tmp_path: Path):
    folder = layered(tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="is cut off"):
        write_shards(folder, LAYER)


def test_the_index_says_where_everything_is(tmp_path: Path):
    folder = layered(tmp_path / "m")
    write_shards(folder, LAYER)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(span.bytes for span in tensor_spans(folder).values())
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    most=st.integers(1, 400),
    dtypes=st.lists(
        st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.int64]), min_size=30, max_size=30
    ),
)
def test_every_tensor_once_and_no_shard_too_large(sizes: list[int], most: int, dtypes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("m")
    tensors = {f"body.{n // 3}.{n}": torch.zeros(size, dtype=dtypes[n]) for n, size in enumerate(sizes)}
    save_file(tensors, folder / "model.safetensors")
    shards = shard_layout(tensor_spans(folder).values(), most)
    assert sorted(span.name for shard in shards for span in shard) == sorted(tensors)
    assert all(len(shard) == 1 or sum(span.bytes for span in shard) <= most for shard in shards)
    write_shards(folder, most)
    assert everything(folder).keys() == tensors.keys()
    for file in tensor_files(folder):
        for span in file.spans:
            assert (span.offset - len(file.header)) % tensors[span.name].element_size() == 0
