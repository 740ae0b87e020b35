"""Model folders that are damaged, are something else, or ask for code: one line each, before torch is loaded."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ftlib.errors import ModelError
from ftlib.kinds.loading import load_model, load_tokenizer
from ftlib.merging.plan import Input, plan_merge
from ftlib.models.folder import check_model, find_model, labels_of, tensor_spans, weights_digest
from ftlib.models.reference import ModelRef
from ftlib.models.tensor_files import read_header
from ftlib.models.vocabulary import new_tokens
from ftlib.testing import LABELS, tiny_classifier

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("whole") / "m", LABELS)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "m"))


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(first: int, last: int, shape: list[Any], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


TWO = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
DAMAGED: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "is empty"),
    "three bytes": (b"abc", "its header claims 0 bytes"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "git lfs pull"),
    "annex pointer": (b"/annex/objects/SHA256E-s1--aa.safetensors\n", "git annex get"),
    "zip": (b"PK\x03\x04" + bytes(200), "pickle of torch, which is never opened"),
    "pickle": (b"\x80\x02}q\x00" + bytes(200), "a pickle, which is never opened"),
    "web page": (b"<!DOCTYPE html><html>404</html>" + bytes(200), "web page"),
    "gzip": (b"\x1f\x8b" + bytes(200), "gzip"),
    "gguf": (b"GGUF" + bytes(200), "GGUF"),
    "eight-byte bomb": (b"\xff" * 8, "its header claims 18446744073709551615 bytes"),
    "bomb with data": (struct.pack("<Q", 2**40) + b"{" + bytes(64), "its header claims 1099511627776 bytes"),
    "cut off in the header": (safetensors({"a": tensor(0, 4, [1])})[:30], "cut off inside its header"),
    "cut off in the data": (safetensors({"a": tensor(0, 4, [1])}, b"\0\0"), "is cut off: it has"),
    "data behind the end": (safetensors({"a": tensor(0, 4, [1])}, bytes(9)), "its header accounts for"),
    "a hole": (safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12)), "leaves 4 bytes before it"),
    "an overlap": (safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)), "overlaps"),
    "backwards": (safetensors({"a": tensor(4, 0, [1])}, bytes(4)), "at bytes 4 to 0"),
    "negative": (safetensors({"a": tensor(-4, 0, [1])}, bytes(4)), "at bytes -4 to 0"),
    "negative shape": (safetensors({"a": tensor(0, 4, [-1, -1])}, bytes(4)), "has shape"),
    "shape of text": (safetensors({"a": tensor(0, 4, ["1"])}, bytes(4)), "has shape"),
    "wrong shape": (safetensors({"a": tensor(0, 4, [9])}, bytes(4)), "has 4 bytes, its shape needs 36"),
    "unknown dtype": (safetensors({"a": tensor(0, 4, [1], "F31")}, bytes(4)), "unknown dtype 'F31'"),
    "no dtype": (safetensors({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "not a safetensors file"),
    "a list": (safetensors([]), "not a safetensors file"),
    "not JSON": (safetensors(b"{nonsense"), "not a safetensors file"),
    "deep": (safetensors(b"[" * 100_000), "not a safetensors file"),
    "twice": (safetensors(TWO, bytes(4)), "is in its header twice"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_weights_are_one_line_where_the_format_s_own_library_refuses(model: Path, kind: str) -> None:
    data, said = DAMAGED[kind]
    file = model / "model.safetensors"
    file.write_bytes(data)
    if kind != "twice":  # the library takes the last of two
        with pytest.raises(SafetensorError), safe_open(file, "pt"):
            pass
    for read in (check_model, lambda m: load_model(m, "labeled"), lambda m: find_model(ModelRef(path=str(m)))):
        with pytest.raises(ModelError) as caught:
            read(model)
        assert said in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_found(model: Path) -> None:
    file = model / "model.safetensors"
    data = file.read_bytes()
    assert sum(span.bytes for span in read_header(file).spans) + len(read_header(file).header) == len(data)
    for length in (*range(0, len(data), 9973), len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(ModelError):
            check_model(model)


def sharded(model: Path) -> Path:
    weights = load_model(model, "labeled")
    (model / "model.safetensors").unlink()
    weights.save_pretrained(model, max_shard_size="20KB")
    assert len(list(model.glob("*.safetensors"))) > 2
    return model / "model.safetensors.index.json"


def _edited(change: Callable[[dict[str, Any]], object]) -> Damage:
    def edit(index: Path) -> None:
        content = json.loads(index.read_bytes())
        change(content["weight_map"])
        index.write_text(json.dumps(content))

    return edit


def _first_shard(index: Path) -> Path:
    return sorted(index.parent.glob("model-0*.safetensors"))[0]


INDEXES: dict[str, tuple[Damage, str]] = {
    "a shard missing": (lambda i: _first_shard(i).unlink(), "is not a file in that folder"),
    "a shard cut off": (lambda i: _first_shard(i).write_bytes(_first_shard(i).read_bytes()[:-1]), "is cut off"),
    "a shard twice": (lambda i: shutil.copy(_first_shard(i), sorted(i.parent.glob("model-0*"))[1]), "is in two files"),
    "another shard's name": (
        _edited(lambda m: m.update({"classifier.bias": m["bert.embeddings.word_embeddings.weight"]})),
        "names model-0",
    ),
    "a tensor that is nowhere": (_edited(lambda m: m.update({"ghost": next(iter(m.values()))})), "is in no file"),
    "a tensor it leaves out": (_edited(lambda m: m.pop("classifier.bias")), "does not name tensor 'classifier.bias'"),
    "a path outside": (_edited(lambda m: m.update({"x": "../x.safetensors"})), "is not a file in that folder"),
    "a number for a file": (_edited(lambda m: m.update({"x": 3})), "must name a file per tensor"),
    "no map": (lambda i: i.write_text("{}"), "must name a file per tensor"),
    "a list": (lambda i: i.write_text("[]"), "must name a file per tensor"),
    "an empty map": (lambda i: i.write_text('{"weight_map": {}}'), "must name a file per tensor"),
    "no JSON": (lambda i: i.write_text("{"), "is not JSON"),
    "empty": (lambda i: i.write_text(""), "is not JSON: it is empty"),
    "a whole model beside it": (
        lambda i: save_file({"w": torch.zeros(2)}, i.parent / "model.safetensors"),
        "beside an index of other files",
    ),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_that_is_not_its_shards(model: Path, kind: str) -> None:
    index = sharded(model)
    assert len(tensor_spans(model)) == 41
    harm, said = INDEXES[kind]
    harm(index)
    with pytest.raises(ModelError) as caught:
        check_model(model)
    assert said in str(caught.value)


def test_the_digest_is_that_of_any_layout(model: Path) -> None:
    before = weights_digest(model)
    sharded(model)
    assert weights_digest(model) == before


def _config(**fields: object) -> Damage:
    def write(model: Path) -> None:
        content = json.loads((model / "config.json").read_bytes())
        (model / "config.json").write_text(json.dumps(content | fields))

    return write


QUANTISED: dict[str, Damage] = {
    "bitsandbytes": _config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "gptq": _config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "nested": _config(text_config={"quantization_config": {"quant_method": "awq"}}),
    "compressed tensors": _config(compression_config={"format": "pack-quantized"}),
    "fp8 weights": lambda m: save_file({"w": torch.zeros(4).to(torch.float8_e4m3fn)}, m / "model.safetensors"),
    "packed integers": lambda m: save_file({"w": torch.zeros(4, dtype=torch.uint32)}, m / "model.safetensors"),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_model_is_refused_by_the_same_words_everywhere(whole: Path, model: Path, kind: str) -> None:
    QUANTISED[kind](model)
    other = Input("other", whole)
    from ftlib.merging.methods import Lerp

    for read in (
        lambda m: find_model(ModelRef(path=str(m))),
        lambda m: load_model(m, "labeled"),
        lambda m: plan_merge(Lerp(alpha=0.5), [other, Input("q", m)], reference=0),
    ):
        with pytest.raises(ModelError, match=r"is quantised \(.+\): packed numbers are neither trained nor measured"):
            read(model)


CODE: list[tuple[str, object]] = [
    ("config.json", {"auto_map": {"AutoModel": "m.T"}}),
    ("config.json", {"text_config": {"auto_map": {"AutoModel": "m.T"}}}),
    ("config.json", {"parts": [{"auto_map": "m.T"}]}),
    ("config.json", {"_attn_implementation_internal": "x/y"}),
    ("config.json", {"attn_implementation": "someone/kernels"}),
    ("config.json", {"custom_pipelines": {"p": {"impl": "p.P"}}}),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}),
    ("tokenizer_config.json", {"extra": {"auto_map": {"AutoTokenizer": "t.T"}}}),
    ("special_tokens_map.json", {"auto_map": {"AutoTokenizer": "t.T"}}),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "p.P"}}),
    ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "p.P"}}),
    ("generation_config.json", {"auto_map": {"x": "p.P"}}),
    ("whatever.json", {"auto_map": {"x": "p.P"}}),
]


@pytest.mark.parametrize(("name", "change"), CODE)
def test_what_makes_a_loader_run_code_is_refused_in_every_file(model: Path, name: str, change: dict[str, Any]) -> None:
    path = model / name
    path.write_text(json.dumps((json.loads(path.read_bytes()) if path.exists() else {}) | change))
    for read in (check_model, load_tokenizer, lambda m: load_model(m, "labeled")):
        with pytest.raises(ModelError, match=f"{name} has .* run the folder's own code; remove it"):
            read(model)


def test_a_word_of_the_vocabulary_is_no_code(model: Path) -> None:
    (model / "vocab.json").write_text(json.dumps({"auto_map": 7}))
    (model / "notes.json").write_text("{ not JSON, and no loader's business")
    (model / "config.json").write_text(
        json.dumps(json.loads((model / "config.json").read_bytes()) | {"auto_map": None})
    )
    check_model(model)


CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "config.json is not JSON: it is empty"),
    "a list": ("[]", "config.json is not a JSON object"),
    "a number": ("3", "config.json is not a JSON object"),
    "half": ('{"model_type": "be', "config.json is not JSON"),
    "a mark before it": (b"\xef\xbb\xbf{}", "config.json is not JSON"),
    "latin": (b'{"a": "\xe9"}', "config.json is not JSON"),
    "deep": ("[" * 100_000, "config.json is not JSON"),
    "lfs": ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "no model_type": ("{}", "config.json cannot be read by transformers"),
    "unknown model_type": ('{"model_type": "berd"}', "config.json cannot be read by transformers"),
    "words for ids": ('{"model_type": "bert", "id2label": {"zero": "a"}}', "id2label has the key 'zero'"),
    "ids from 1": ('{"model_type": "bert", "id2label": {"1": "a", "2": "b"}}', "must number its labels 0 to 1"),
    "a gap": ('{"model_type": "bert", "id2label": {"0": "a", "2": "b"}}', "must number its labels 0 to 1"),
    "a list of labels": ('{"model_type": "bert", "id2label": ["a", "b"]}', "id2label must map numbers to names"),
    "a null for a name": ('{"model_type": "bert", "id2label": {"0": null}}', r"id2label[0] must be a name"),
    "text for a number": (
        '{"model_type": "bert", "hidden_size": "wide"}',
        "config.json cannot be read by transformers",
    ),
    "elsewhere": ('{"model_type": "bert", "transformers_weights": "o.safetensors"}', "names other files of weights"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_fault_of_the_config_is_told_as_one(model: Path, kind: str) -> None:
    content, said = CONFIGS[kind]
    (model / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (lambda m: load_model(m, "labeled"), load_tokenizer):
        with pytest.raises(ModelError) as caught:
            read(model)
        assert said in str(caught.value)
        assert "tokenizer" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"num_attention_heads": 0}, {"hidden_act": "no"}, {"num_attention_heads": 5}])
def test_a_config_that_makes_no_model_is_one_line(model: Path, fields: dict[str, object]) -> None:
    _config(**fields)(model)
    with pytest.raises(
        ModelError, match=r"config\.json cannot be read by transformers|cannot be loaded as a SequenceClassification"
    ):
        load_model(model, "labeled")


def test_labels_of_many_ids_are_in_the_order_of_the_logits(model: Path) -> None:
    names = {str(i): f"l{i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    _config(id2label=names)(model)
    assert labels_of(model) == tuple(f"l{i}" for i in range(11))


TOKENIZERS: dict[str, str] = {
    "no JSON": "{",
    "empty": "",
    "another object": "{}",
    "a list": "[]",
    "a model of no kind": '{"version": "1.0", "model": {"type": "Nope"}}',
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_damaged_tokenizer_is_one_line(model: Path, kind: str) -> None:
    (model / "tokenizer.json").write_text(TOKENIZERS[kind])
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_tokenizer(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer.json", content) for content in TOKENIZERS.values()),
        ("tokenizer.json", '{"model": {"vocab": {"a": "0"}}}'),
        ("tokenizer.json", '{"model": {"vocab": [3]}}'),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [{"id": 3}]}'),
        ("added_tokens.json", '["a"]'),
        ("added_tokens.json", "3"),
    ],
)
def test_a_merge_with_a_damaged_tokenizer_is_one_line(whole: Path, model: Path, name: str, content: str) -> None:
    (model / name).write_text(content)
    for inputs in ((whole, model), (model, whole)):
        with pytest.raises(ModelError) as caught:
            new_tokens(*inputs, ("a", "b"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(model: Path, value: float) -> None:
    from safetensors.torch import load_file

    tensors = load_file(model / "model.safetensors")
    tensors["classifier.weight"][1, 2] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"'classifier\.weight' holds NaN or infinity, 1 of 96 values"):
        load_model(model, "labeled")


@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_as_a_base_is_told_as_one(model: Path, beside: bool) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 2, "lora_alpha": 4}
    (model / "adapter_config.json").write_text(json.dumps(config))
    if not beside:
        (model / "config.json").unlink()
        (model / "model.safetensors").unlink()
    for read in (
        lambda m: find_model(ModelRef(path=str(m))),
        lambda m: load_model(m, "labeled"),
        load_tokenizer,
        labels_of,
        check_model,
    ):
        with pytest.raises(ModelError, match=r"adapter.*stands on, by its config some/base") as caught:
            read(model)
        assert "\n" not in str(caught.value)


def test_a_link_that_leads_nowhere_is_named(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../blobs/abc")
    with pytest.raises(ModelError, match=r"is a link to \.\./blobs/abc, which is not there"):
        check_model(model)
