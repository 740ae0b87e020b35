"""`reglage interpolate` on folders and on published versions."""

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
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification

from flows.command_line.main import main
from ftlib.models.checkpoint import Checkpoint
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_causal_lm, tiny_checkpoint, tiny_image_classifier
from ftlib.workspace import RECORD


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """theta0 and two fine-tunes of it, as the train stage leaves them."""
    root = tmp_path_factory.mktemp("trail")
    start = tiny_checkpoint(root / "start", phase="probe")
    trail = [start, *(tiny_checkpoint(root / f"end{i}", phase="tune", start=start, seed=i) for i in (1, 2))]
    for checkpoint in trail:
        (checkpoint.path / RECORD).write_text(checkpoint.model_dump_json())
    return trail


def call(*words: object) -> Result:
    return CliRunner().invoke(main, ["interpolate", *map(str, words)])


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_a_recorded_start_and_its_fine_tune(trail: list[Checkpoint], tmp_path: Path) -> None:
    result = call(trail[0].path, trail[1].path, "--alpha", 0.3, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["lineage_known"] is True
    assert (said["merge"]["alpha"], said["folder"]) == (0.3, str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert [part["weights"] for part in record["checkpoints"]] == [trail[0].weights, trail[1].weights]
    assert (record["merge"], record["weights"]) == (said["merge"], said["weights"])
    a, b, mixed = (tensors(folder) for folder in (*(c.path / "model" for c in trail[:2]), tmp_path / "out"))
    for name in a:
        np.testing.assert_allclose(mixed[name], 0.7 * a[name] + 0.3 * b[name], atol=1e-7)


def test_methods_of_several_checkpoints(trail: list[Checkpoint], tmp_path: Path) -> None:
    folders = [checkpoint.path for checkpoint in trail]
    assert call(*folders[1:], "--method", "average", "--out", tmp_path / "soup").exit_code == 0
    expected = [tensors(checkpoint.path / "model")["classifier.weight"] for checkpoint in trail]
    np.testing.assert_allclose(
        tensors(tmp_path / "soup")["classifier.weight"], (expected[1] + expected[2]) / 2, atol=1e-7
    )
    for words in (
        ["--method", "model_stock"],
        ["--method", "task_arithmetic", "--scale", 0.5],
        ["--method", "ties", "--option", "density=0.4"],
        ["--method", "dare", "--scale", 0.5, "--option", "drop=0.5", "--option", "seed=4"],
    ):
        result = call(*folders, *words, "--out", tmp_path / str(words[1]))
        assert result.exit_code == 0, result.output
        assert tensors(tmp_path / str(words[1])).keys() == tensors(tmp_path / "soup").keys()


def test_layers_by_their_depth_and_a_graft(trail: list[Checkpoint], tmp_path: Path) -> None:
    folders, (a, b, c) = [one.path for one in trail], (tensors(one.path / "model") for one in trail)
    words = ["--method", "lines", "--alpha", 1, "--option", "shallow=0.25", "--out", tmp_path / "lines"]
    assert call(*folders[:2], *words).exit_code == 0
    mixed = tensors(tmp_path / "lines")
    for name in a:
        alpha = 1.0 if ".layer.1." in name else 0.25
        np.testing.assert_allclose(mixed[name], a[name] + alpha * (b[name] - a[name]), atol=1e-7)
        assert alpha == 0.25 or mixed[name].tobytes() == b[name].tobytes()
    refused = call(*folders[:2], "--method", "blocks", "--option", "alphas=[0.1,0.2,0.3]", "--out", tmp_path / "out")
    assert (refused.exit_code, "has 2 numbered layers where 3 are the least" in refused.output) == (4, True)
    graft = [*folders, "--method", "graft", "--scale", 0.5]
    refused = call(*graft, "--out", tmp_path / "out")
    assert refused.exit_code == 4
    assert "and 0.05 is allowed: what one learns means little to the other" in refused.output
    assert not (tmp_path / "out").exists()
    result = call(*graft, "--option", "at_most_apart=1", "--out", tmp_path / "graft", "--json")
    assert result.exit_code == 0, result.output
    apart = sum(np.abs(a[n] - c[n]).sum(dtype=np.float64) for n in a)
    apart /= sum((np.abs(a[n]) + np.abs(c[n])).sum(dtype=np.float64) for n in a)
    assert f" lies {apart:.4f} from " in json.loads(result.stdout)["warnings"][0]
    mixed = tensors(tmp_path / "graft")
    for name in a:
        np.testing.assert_allclose(mixed[name], c[name] + 0.5 * (b[name] - a[name]), atol=1e-6)
    assert "BASE TUNED INSTRUCT, got 2" in call(*folders[:2], "--method", "graft", "--out", tmp_path / "out").output


def test_checkpoints_that_do_not_belong_together_are_refused(trail: list[Checkpoint], tmp_path: Path) -> None:
    result = call(trail[1].path, trail[2].path, "--alpha", 0.5, "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert "only checkpoints of one start lie in one basin" in result.output
    assert not (tmp_path / "out").exists()


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def rewritten(folder: Path, file: str, change: Callable[[Any], None]) -> Path:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


def test_labels_in_another_order_are_refused(trail: list[Checkpoint], tmp_path: Path) -> None:
    a, b = (copied(c.path / "model", tmp_path / str(i)) for i, c in enumerate(trail[:2]))

    def turned(config: Any) -> None:
        config["id2label"] = dict(zip(config["id2label"], reversed(config["id2label"].values()), strict=True))

    rewritten(b, "config.json", turned)
    result = call(a, b, "--alpha", 0.5, "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert "have different labels, or another order: " + ", ".join(LABELS) in result.output

    def nameless(config: Any) -> None:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(len(LABELS))}

    rewritten(b, "config.json", nameless)  # what transformers calls labels that nobody named says nothing
    assert call(a, b, "--alpha", 0.5, "--out", tmp_path / "out").exit_code == 0


def test_tokens_that_moved_are_refused_though_shapes_agree(trail: list[Checkpoint], tmp_path: Path) -> None:
    a, b = (copied(c.path / "model", tmp_path / str(i)) for i, c in enumerate(trail[:2]))
    vocabulary = json.loads((b / "tokenizer.json").read_text())["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isalpha()][:2]

    def swapped(content: Any) -> None:
        words = content["model"]["vocab"]
        words[first], words[second] = words[second], words[first]

    rewritten(b, "tokenizer.json", swapped)
    result = call(a, b, "--alpha", 0.5, "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert f"2 tokens of {str(a)!r} are not at their place in {str(b)!r}, first" in result.output


def test_tokens_added_to_rows_that_waited_for_them_are_the_fine_tunes(trail: list[Checkpoint], tmp_path: Path) -> None:
    a, b = (copied(c.path / "model", tmp_path / str(i)) for i, c in enumerate(trail[:2]))

    def dropped(content: Any) -> None:
        words = content["model"]["vocab"]
        del words[max(words, key=words.__getitem__)]

    rewritten(a, "tokenizer.json", dropped)  # its last row is there, and no token's
    words = ["--out", tmp_path / "out"]
    assert call(a, b, "--alpha", 0.3, *words).exit_code == 0
    name = "bert.embeddings.word_embeddings.weight"
    start, end, mixed = (tensors(folder)[name] for folder in (a, b, tmp_path / "out"))
    assert (mixed[-1] == end[-1]).all()
    np.testing.assert_allclose(mixed[:-1], 0.7 * start[:-1] + 0.3 * end[:-1], atol=1e-7)
    result = call(a, b, "--method", "slerp", "--alpha", 0.3, "--out", tmp_path / "other")
    assert "a vocabulary that has grown is merged on the straight line" in result.output


def test_a_missing_tokenizer_is_said(trail: list[Checkpoint], tmp_path: Path) -> None:
    b = copied(trail[1].path / "model", tmp_path / "b")
    for path in b.glob("*token*"):
        path.unlink()
    result = call(trail[0].path / "model", b, "--alpha", 0.3, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "has no tokenizer: that its tokens mean the same is not checked; the result has none either" in result.output


def test_a_start_that_is_not_on_record_is_known_by_its_bytes(trail: list[Checkpoint], tmp_path: Path) -> None:
    plain = copied(trail[0].path / "model", tmp_path / "plain")
    result = call(plain, trail[1].path, "--alpha", 0.3, "--out", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["lineage_known"] is True
    other = copied(trail[2].path / "model", tmp_path / "other")
    result = call(other, trail[1].path, "--alpha", 0.3, "--out", tmp_path / "wrong")
    assert result.exit_code == 4
    assert "give the exact weights it started from as theta0" in result.output


def test_published_versions_are_pulled(
    trail: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    for checkpoint in trail[:2]:
        folder = checkpoint.path / "model"
        files = tuple(file_of(folder, path.name) for path in sorted(folder.iterdir()))
        weights = {"published": checkpoint.weights, "start": checkpoint.parent}
        manifest = Manifest(name="demo", description="", files=files, metrics={}, lineage={"weights": weights})
        registry.publish(manifest, folder, checkpoint.weights, lambda _: None, tmp_path)
    words = ["--registry", tmp_path / "registry", "--out", tmp_path / "out", "--json"]
    result = call("demo@1", "demo@2", "--alpha", 1.0, *words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["weights"] == trail[1].weights
    assert "manifest.json" not in {path.name for path in (tmp_path / "out").iterdir()}


def adapter_of(base: Path, folder: Path, seed: int = 0, **config: Any) -> Path:
    """Write an adapter as stock peft does, its parameters moved at random."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(base)
    settings = {"r": 2, "target_modules": ["query"], "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(**{**settings, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator) * parameter.requires_grad
    wrapped.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    model: Any = AutoModelForSequenceClassification.from_pretrained(base)
    state = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    return {name: value.numpy() for name, value in state.items()}


def test_an_adapter_counts_as_what_it_makes_of_its_base(trail: list[Checkpoint], tmp_path: Path) -> None:
    base = trail[0].path / "model"
    adapters = [adapter_of(base, tmp_path / f"adapter{i}", seed=i, use_dora=bool(i)) for i in (0, 1)]
    result = call(base, adapters[1], "--alpha", 0.3, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    start, ends = tensors(base), [merged_by_peft(base, adapter) for adapter in adapters]
    for name, value in tensors(tmp_path / "out").items():
        np.testing.assert_allclose(value, 0.7 * start[name] + 0.3 * ends[1][name], atol=1e-6, err_msg=name)
    assert (
        call(base, *adapters, "--method", "task_arithmetic", "--scale", 0.5, "--out", tmp_path / "sum").exit_code == 0
    )
    for name, value in tensors(tmp_path / "sum").items():
        expected = start[name] + 0.5 * sum(end[name] - start[name] for end in ends)
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)


def test_an_adapter_is_moved_without_a_merge(trail: list[Checkpoint], tmp_path: Path) -> None:
    base = trail[0].path / "model"
    adapter = adapter_of(base, tmp_path / "adapter")
    result = call(base, adapter, "--alpha", 0.3, "--as-adapter", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "the adapter at alpha 0.3 is in" in result.output
    start, end, moved = tensors(base), merged_by_peft(base, adapter), merged_by_peft(base, tmp_path / "out")
    for name, value in moved.items():
        np.testing.assert_allclose(value, 0.7 * start[name] + 0.3 * end[name], atol=1e-6, err_msg=name)


def test_an_adapter_of_another_type_is_copied_at_alpha_one_and_moved_nowhere_else(
    trail: list[Checkpoint], tmp_path: Path
) -> None:
    base = trail[0].path / "model"
    config = peft.LoHaConfig(target_modules=["query"], task_type="SEQ_CLS")
    peft.get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config).save_pretrained(
        tmp_path / "loha"
    )
    result = call(base, tmp_path / "loha", "--alpha", 1, "--as-adapter", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("loha", "out"))
    assert {k: v.tobytes() for k, v in before.items()} == {k: v.tobytes() for k, v in after.items()}
    result = call(base, tmp_path / "loha", "--alpha", 0.5, "--as-adapter", "--out", tmp_path / "half")
    assert result.exit_code == 4
    assert "cannot be scaled (peft_type)" in result.output
    assert not (tmp_path / "half").exists()


def test_what_a_killed_merge_of_adapters_left_goes_with_the_next(trail: list[Checkpoint], tmp_path: Path) -> None:
    base = trail[0].path / "model"
    adapter = adapter_of(base, tmp_path / "adapter")
    left = tmp_path / ".out.scratch" / "0"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half of a model")
    assert call(base, adapter, "--alpha", 0.3, "--out", tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]


def test_another_base_than_the_adapter_names_is_said(trail: list[Checkpoint], tmp_path: Path) -> None:
    base = trail[0].path / "model"
    adapter = adapter_of(base, tmp_path / "adapter")
    other = copied(trail[1].path / "model", tmp_path / "other")
    for words in ([], ["--as-adapter"]):
        result = call(other, adapter, "--alpha", 0.3, *words, "--out", tmp_path / f"out{len(words)}")
        assert result.exit_code == 0
        assert f"was trained over {base}, by its config, and A is {other}" in result.output
    result = call(
        tiny_causal_lm(tmp_path / "lm"), adapter, "--alpha", 0.3, "--as-adapter", "--out", tmp_path / "lm_out"
    )
    assert result.exit_code == 4
    assert "give the model that the adapter was trained over" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base", "dora", "--alpha", "0.3", "--as-adapter"], "cannot be scaled (use_dora)"),
        (["dora", "base", "--alpha", "0.3"], "is an adapter, which stands on another model: give that model as A"),
        (["base", "tune", "--alpha", "0.3", "--as-adapter"], "has no adapter_config.json"),
        (
            ["base", "dora", "dora", "--method", "ties", "--as-adapter"],
            "lerp, lines and blocks go with it, and no shards",
        ),
        (
            ["base", "dora", "--alpha", "1", "--as-adapter", "--max-shard-mb", "1"],
            "lerp, lines and blocks go with it, and no shards",
        ),
    ],
)
def test_what_an_adapter_cannot_be_is_one_line(
    words: list[str], message: str, trail: list[Checkpoint], tmp_path: Path
) -> None:
    base = trail[0].path / "model"
    places = {"base": base, "tune": trail[1].path, "dora": adapter_of(base, tmp_path / "dora", use_dora=True)}
    result = call(*(places.get(word, word) for word in words), "--out", tmp_path / "out")
    assert result.exit_code in (2, 4)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "lerp"], "method lerp: alpha: required, but absent"),
        (["--alpha", "1.5"], "alpha: input should be less than or equal to 1"),
        (["--method", "ties", "--option", "density"], "write name=value with a JSON value"),
        (
            ["--method", "ties", "--option", "densty=0.3"],
            "method ties: densty: unknown field; did you mean 'density'?; allowed: density, kind, scale",
        ),
        (["--method", "ties", "--option", "density=3"], "density: input should be less than or equal to 1, got 3"),
        (
            ["--alpha", "0.5", "--option", 'kind="slerp"'],
            "option 'kind=\"slerp\"': that is what method says; leave the option out",
        ),
        (["--alpha", "0.5", "--option", "alpha=0.4"], "option 'alpha=0.4': that is what alpha says"),
    ],
)
def test_wrong_numbers_are_one_line(words: list[str], message: str, trail: list[Checkpoint], tmp_path: Path) -> None:
    result = call(trail[0].path, trail[1].path, *words, "--out", tmp_path / "out")
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert message in line


@pytest.mark.parametrize(("moved", "alpha", "says"), [(0, 0.5, False), (1, 0.5, True), (1, 0.0, False)])
def test_statistics_that_are_mixed_are_said(moved: int, alpha: float, says: bool, tmp_path: Path) -> None:
    start = tiny_image_classifier(tmp_path / "start", "resnet")
    tuned = copied(start, tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    running = [name for name in weights if name.endswith("running_mean")][:moved]
    changed = {**weights, **{name: weights[name] + 1 for name in running}}
    save_file(changed, tuned / "model.safetensors", metadata={"format": "pt"})
    result = call(start, tuned, "--alpha", alpha, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert ("the running statistics of 1 BatchNorm layer are mixed" in result.output) == says


def test_model_stock_of_one_fine_tune_is_refused(trail: list[Checkpoint], tmp_path: Path) -> None:
    done = call(trail[0].folder, trail[1].folder, "--method", "model_stock", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "model_stock takes at least 3 checkpoints, got 2" in done.stderr
    assert not (tmp_path / "out").exists()
