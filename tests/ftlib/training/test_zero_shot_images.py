"""Zero-shot heads of images: against CLIPModel's own logits, on a tiny random CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import IMAGE_SIZE, tiny_classifier, tiny_image_classifier, tiny_recipe, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace
from tests.ftlib.training.image_kit import LABELS, image_data, image_phase, trained
from tests.ftlib.training.solved.test_zero_shot_head import left_out, ridge

SENTENCES = {label: (f"the {label}", f"{label} again and again") for label in LABELS}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> FoundModel:
    """A CLIP folder as hubs have it: both towers, both projections, tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**sizes, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**sizes, "image_size": IMAGE_SIZE, "patch_size": 8},
        projection_dim=10,
        logit_scale_init_value=3.0,
        initializer_factor=5.0,
    )
    torch.manual_seed(2)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size).save_pretrained(folder)
    return find_model(ModelRef(path=str(folder)))


@pytest.fixture(scope="module")
def start(clip: FoundModel, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    work = Workspace(tmp_path_factory.mktemp("start"))
    return base(BaseJob(model=clip, kind="labeled_images", labels=LABELS, seed=1), work)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return image_data(tmp_path_factory.mktemp("data"), rows=48)


def made(
    start: Checkpoint, data: PreparedDataset, encoder: FoundModel | Checkpoint, root: Path, **fields: object
) -> Checkpoint:
    phase = image_phase({"kind": "zero_shot", "sentences": SENTENCES, **fields})
    job = TrainJob(
        start=start,
        data=data,
        phase=phase,
        precision="fp32",
        seed=7,
        compute=Compute(workers=0, threads=1),
        companions={"encoder": encoder},
    )
    return train(job, Workspace(root))


def test_only_the_head_of_an_image_classifier_is_fresh(clip: FoundModel, start: Checkpoint) -> None:
    """CLIP's classifier calls its body otherwise than its prefix says, and that was taken for a head."""
    stock = CLIPModel.from_pretrained(clip.folder).vision_model.state_dict()
    ours = AutoModelForImageClassification.from_pretrained(start.folder).vision_model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in stock.items())
    assert start.fresh_head


@torch.no_grad()
def test_the_head_regresses_clips_own_logits(
    clip: FoundModel, start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """Ridge regression is linear in what it is told, so the head is that of `logits_per_image` on the patches' mean."""
    one_each = {label: SENTENCES[label][:1] for label in LABELS}
    head = made(start, data, clip, tmp_path, sentences=one_each)
    stock, tokenizer = CLIPModel.from_pretrained(clip.folder).eval(), AutoTokenizer.from_pretrained(clip.folder)
    split = open_split(data.path / "train.arrow", LABELS)
    pixels = split.batch(range(len(split)), Collator.of(stock)).inputs["pixel_values"]
    texts = tokenizer([one_each[label][0] for label in LABELS], return_tensors="pt", padding=True)
    texts.pop("token_type_ids", None)
    told = stock(pixel_values=pixels, **texts)
    seen = stock.vision_model(pixels).last_hidden_state[:, 1:].mean(dim=1).double().numpy()

    usual = seen.var(axis=0).mean() * len(seen)
    strengths = [part * usual for part in (10, 3, 1, 0.3, 0.1, 0.03, 0.01)]
    embedded = told.image_embeds.double().numpy()
    errors = [left_out(seen, embedded, strength, intercept=True) for strength in strengths]
    best = strengths[int(np.argmin(errors))]
    weight, bias = ridge(seen, told.logits_per_image.double().numpy(), best, intercept=True)
    expected = seen @ weight.T + bias

    logits = AutoModelForImageClassification.from_pretrained(head.folder).eval()(pixel_values=pixels).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-3 * np.abs(expected).max())
    assert head.facts["scale"] == pytest.approx(np.exp(3.0))
    assert head.facts["scale_chosen_on"] == "what its encoder learned"
    assert head.facts["explained"] == pytest.approx(1 - min(errors) / embedded.var(axis=0).mean(), abs=2e-3)
    assert not head.fresh_head


def test_the_encoder_counts_by_its_bytes_and_another_body_may_train(
    clip: FoundModel, data: PreparedDataset, tmp_path: Path
) -> None:
    """A ViT with CLIP's sentences; what follows it is fine-tuning as after any other head."""
    folder = tiny_image_classifier(tmp_path / "vit", "vit")
    for path in clip.folder.glob("[tp]*"):
        (folder / path.name).write_bytes(path.read_bytes())
    found = find_model(ModelRef(path=str(folder)))
    begun = base(BaseJob(model=found, kind="labeled_images", labels=LABELS, seed=1), Workspace(tmp_path))
    zero = made(begun, data, clip, tmp_path)
    tuned = trained(tmp_path, zero, data, image_phase({"kind": "full"}))
    assert (tuned.parent, zero.fresh_head) == (zero.weights, False)
    elsewhere = clip.model_copy(update={"uri": str(tmp_path)})
    assert made(begun, data, elsewhere, tmp_path) == zero  # found again: the place is not its identity


def test_what_cannot_encode_is_refused_by_name(
    clip: FoundModel, start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    bert = find_model(ModelRef(path=str(tiny_classifier(tmp_path / "bert"))))
    same = {"tokenizer": start.tokenizer}
    with pytest.raises(ModelError, match=r"companions\.encoder: .* is bert, and only a clip model embeds"):
        made(start, data, bert.model_copy(update=same), tmp_path)
    with pytest.raises(ModelError, match=r"lacks \d+ tensors, among them .*copy or download it again"):
        made(start, data, start, tmp_path)  # the vision tower alone
    with pytest.raises(RecipeError, match=r"tuning.embedding: is of texts .* got 'first'.*leave it out"):
        made(start, data, clip, tmp_path, embedding="first")


def test_a_recipe_of_images_names_the_encoder(tmp_path: Path) -> None:
    images = ["datasets.home.format={kind: labeled_image}", "phases.probe.tuning={kind: zero_shot}"]
    path = tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"phases\[probe\]\.companions: 'zero_shot' asks encoder, got none"):
        load_recipe(path, images)
    with pytest.raises(RecipeError, match=r"phases\[probe\]\.companions: 'classification' asks none, got encoder"):
        load_recipe(path, [images[1], "phases.probe.companions={encoder: {phase: base}}"])
