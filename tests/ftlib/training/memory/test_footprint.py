"""What frozen models beside a phase hold, against the models themselves in memory."""

import warnings
from pathlib import Path

import pytest
import transformers

from ftlib.errors import ModelError
from ftlib.kinds.loading import head_modules, load, load_model
from ftlib.models.checkpoint import FoundModel
from ftlib.testing import LABELS, ImageFamily, tiny_adapter, tiny_checkpoint, tiny_image_classifier
from ftlib.training.memory.footprint import footprint, frozen_beside
from ftlib.training.phase import Companion, Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.linear_probe import LinearProbe
from ftlib.training.tuning.lora import LoRA


def test_every_frozen_model_is_counted_as_it_is_in_memory(tmp_path: Path) -> None:
    dense = tiny_checkpoint(tmp_path / "dense")
    adapter = tiny_adapter(tmp_path / "adapter", dense)
    tuning = {"kind": "lora", "rank": 2, "keep": "adapter"}
    base, tune = (
        Phase.model_validate(
            {
                "name": name,
                "dataset": "d",
                "objective": {"kind": "classification"},
                "tuning": said,
                "companions": beside,
            }
        )
        for name, said, beside in (
            ("probe", {"kind": "linear_probe"}, {}),
            ("tune", tuning, {"start": {"phase": "probe"}, "found": {"phase": "base"}}),
        )
    )
    last = tune.model_copy(update={"name": "last", "companions": {"before": Companion(phase="tune")}})
    phases = (base, tune, last)
    sizes = [footprint(dense.folder, "labeled", len(LABELS), phase.tuning) for phase in phases]
    found = FoundModel(name="x", uri=str(adapter.folder), weights="w", tokenizer="t", form="adapter", base=adapter.base)
    elsewhere = tune.companions | {"found": Companion.model_validate({"model": {"path": "x"}})}
    phases = (base, tune.model_copy(update={"companions": elsewhere}), last)
    beside = frozen_beside(phases, sizes, "labeled", dense.folder, {"tune": {"found": found}}, len(LABELS))
    of_dense = sum(p.numel() for p in load_model(dense.folder, "labeled").parameters())
    of_adapter = sum(p.numel() for p in load(adapter, "labeled").parameters())
    assert beside[0] == {}
    assert {name: one.parameters for name, one in beside[1].items()} == {"start": of_dense, "found": of_adapter}
    model = load_model(dense.folder, "labeled")
    tuned = tune.tuning.prepare(model, "labeled", head_modules(model))
    assert beside[2]["before"].parameters == sum(p.numel() for p in tuned.parameters()) > of_dense


def test_counting_an_adapter_prints_no_warning_of_peft_or_transformers(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model").folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        footprint(model, "labeled", len(LABELS), LoRA())


def test_a_resnet_50_multiplies_as_often_as_its_paper_says(tmp_path: Path) -> None:
    """3.8 billion in He et al. 2015; 4.1 with the stride where everyone has it today."""
    transformers.ResNetConfig().save_pretrained(tmp_path)
    transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}).save_pretrained(tmp_path)
    size = footprint(tmp_path, "labeled_images", 1000, LinearProbe())
    assert size.parameters == 25_557_032
    assert size.computing * (224 // 16) ** 2 == pytest.approx(4.09e9, rel=0.01)
    assert (size.hidden, size.trained) == (2048, 1000 * 2049)


def test_a_model_whose_processor_makes_images_of_another_size_is_said(tmp_path: Path) -> None:
    transformers.ViTConfig(image_size=64, hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot read the images of its own processor: Input image size \(32"):
        footprint(tmp_path, "labeled_images", 2, Full())


@pytest.mark.parametrize("family", ["vit", "resnet", "efficientnet"])
def test_a_network_of_images_is_as_wide_as_its_head_reads(family: ImageFamily, tmp_path: Path) -> None:
    folder = tiny_image_classifier(tmp_path, family, LABELS)
    size = footprint(folder, "labeled_images", len(LABELS), LinearProbe())
    model = load_model(folder, "labeled_images")
    head = {name: p for name, p in model.named_parameters() if name.split(".")[0] in head_modules(model)}
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.trained == sum(p.numel() for p in head.values())
    assert size.hidden == next(p.shape[1] for p in head.values() if p.ndim == 2)
