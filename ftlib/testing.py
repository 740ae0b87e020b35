"""Tiny models and rows, shipped so that users test their own formats, tunings and metrics with what tests the product.

The models are made from a config: random weights, a real tokenizer, milliseconds to train, folders that stock
transformers loads. The rows are learnable: each label has words of its own among words that all labels share.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from ftlib.config import BatchKind, Split
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.formats import Format
from ftlib.data.inputs import Inputs, row_size
from ftlib.data.iob2 import entities
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.data.processor import Processor
from ftlib.data.rows import Example, Values, labels_in
from ftlib.fingerprint import digest, file_digest
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import adapter_digest, base_of
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.models.folder import config_digest, weights_digest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

ImageFamily = Literal["vit", "resnet", "efficientnet"]

LABELS = ("billing", "bug", "sales")

_TOPICS = (
    "invoice payment refund charge card receipt tax discount price subscription balance bank",
    "crash error freeze screen button login password stack trace timeout reload blank",
    "quote demo licence seats trial upgrade partner contract offer meeting budget team",
    "parcel courier address delay tracking package warehouse customs driver doorstep label pickup",
    "battery cable charger fan keyboard hinge speaker microphone port adapter heat noise",
    "visa passport flight hotel luggage boarding gate seat ticket airport layover booking",
)
_SHARED = (
    "the a my our this that is was has had will can please today yesterday again still after before when with without "
    "for from about into over and or but not very some more again customer account page order time day week month "
    "question answer help need want know see get make find show tell ask wait call write open close start stop"
)

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD, _CLS, _SEP = _SPECIAL.index("[PAD]"), _SPECIAL.index("[CLS]"), _SPECIAL.index("[SEP]")


def tiny_rows(
    count: int, labels: Sequence[str] = LABELS, *, seed: int = 0, words: int = 12, hints: int = 3
) -> list[dict[str, str | int]]:
    """Make `count` distinct rows, labels in turn, with columns text, label, group (of 5 rows) and day (ascending).

    `hints` words of `words` belong to the label; the fewer, the harder. At most six labels.
    """
    if not 2 <= len(labels) <= len(_TOPICS):
        raise ValueError(f"tiny_rows has words for 2 to {len(_TOPICS)} labels, got {len(labels)}")
    draw = random.Random(seed)
    rows: list[dict[str, str | int]] = []
    for i in range(count):
        which = i % len(labels)
        chosen = draw.choices(_TOPICS[which].split(), k=hints) + draw.choices(_SHARED.split(), k=words - hints)
        draw.shuffle(chosen)
        text = f"{' '.join(chosen)} {seed}-{i}"  # the number keeps rows distinct: nothing is lost to de-duplication
        rows.append({"text": text, "label": labels[which], "group": f"g{i // 5}", "day": i})
    return rows


def tiny_tagged_rows(count: int, *, seed: int = 0, words: int = 10) -> list[dict[str, list[str]]]:
    """Make `count` distinct rows with columns words and tags (IOB2): runs of one to three words are PAY or BUG."""
    draw = random.Random(seed)
    rows: list[dict[str, list[str]]] = []
    for i in range(count):
        tagged = [(word, "O") for word in draw.choices(_SHARED.split(), k=words)]
        for type, topic in zip(("PAY", "BUG"), _TOPICS, strict=False):
            run = draw.choices(topic.split(), k=draw.randint(1, 3))
            position = draw.randint(0, len(tagged))
            if position < len(tagged) and tagged[position][1].startswith("I-"):
                continue  # it would cut another entity in two
            tagged[position:position] = [(word, f"{'I' if j else 'B'}-{type}") for j, word in enumerate(run)]
        tagged.append((f"{seed}-{i}", "O"))  # keeps rows distinct: nothing is lost to de-duplication
        rows.append({"words": [word for word, _ in tagged], "tags": [tag for _, tag in tagged]})
    return rows


def tiny_questions(count: int, *, seed: int = 0, words: int = 10, unanswerable: int = 0) -> list[dict[str, object]]:
    """Make `count` rows with columns question, context and answers, as SQuAD has them, of `tiny_tagged_rows`.

    Every `unanswerable`-th asks for what no context has; 0 is none.
    """
    asked = {"PAY": "which payment ?", "BUG": "which crash ?"}
    rows: list[dict[str, object]] = []
    for i, row in enumerate(tiny_tagged_rows(count, seed=seed, words=words)):
        entity = entities(row["tags"])[i % 2 - 1]
        text = " ".join(row["words"][entity.first : entity.end])
        start = sum(len(word) + 1 for word in row["words"][: entity.first])
        answers, question = {"text": [text], "answer_start": [start]}, asked[entity.type]
        if unanswerable and i % unanswerable == unanswerable - 1:
            answers, question = {"text": [], "answer_start": []}, "which parcel ?"
        rows.append({"question": question, "context": " ".join(row["words"]), "answers": answers})
    return rows


def tiny_multi_label_rows(
    count: int, labels: Sequence[str] = LABELS, *, seed: int = 0, words: int = 12, hints: int = 2
) -> list[dict[str, str | list[str]]]:
    """Make `count` distinct rows with columns text and labels: every subset of them in turn, none and all too.

    Each label has `hints` words of its own in the text. At most six labels.
    """
    draw = random.Random(seed)
    rows: list[dict[str, str | list[str]]] = []
    for i in range(count):
        which = [j for j in range(len(labels)) if i >> j & 1]
        chosen = [word for j in which for word in draw.choices(_TOPICS[j].split(), k=hints)]
        chosen += draw.choices(_SHARED.split(), k=words - len(chosen))
        draw.shuffle(chosen)
        rows.append({"text": f"{' '.join(chosen)} {seed}-{i}", "labels": [labels[j] for j in which]})
    return rows


def tiny_scored_rows(count: int, *, seed: int = 0, words: int = 12) -> list[dict[str, str | float]]:
    """Make `count` distinct rows with columns text and score: half the number of words about one topic, 0 to 3."""
    draw = random.Random(seed)
    rows: list[dict[str, str | float]] = []
    for i in range(count):
        told = i % 7
        chosen = draw.choices(_TOPICS[0].split(), k=told) + draw.choices(_SHARED.split(), k=words - told)
        draw.shuffle(chosen)
        rows.append({"text": f"{' '.join(chosen)} {seed}-{i}", "score": told / 2})
    return rows


def tiny_image_rows(
    count: int, labels: Sequence[str] = LABELS, *, seed: int = 0, pixels: int = 24, noise: float = 0.15
) -> list[dict[str, str]]:
    """Make `count` distinct rows with columns image (a PNG as a data URI), label and theme: each label has its colour.

    A rectangle of that colour lies on a ground of noise; `noise` is its share of the whole range, the more, the harder.
    At most six labels; the theme, light or dark, is the ground's.
    """
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    rows: list[dict[str, str]] = []
    for i in range(count):
        theme = ("light", "dark")[int(draw.integers(2))]
        image = np.full((pixels, pixels, 3), 0.8 if theme == "light" else 0.2)
        top, left = draw.integers(0, pixels // 2, 2)
        height, width = draw.integers(pixels // 4, pixels // 2, 2)
        image[top : top + height, left : left + width] = _COLOURS[i % len(labels)]
        image += draw.normal(0, noise, image.shape)
        stream = io.BytesIO()
        Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(stream, "PNG")
        text = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
        rows.append({"image": text, "label": labels[i % len(labels)], "theme": theme})
    return rows


_COLOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write rows as one JSON object a line and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Return a real WordPiece tokenizer of about 250 tokens that can spell every ASCII text."""
    from transformers import BertTokenizer

    words = sorted({word for words in (*_TOPICS, _SHARED) for word in words.split()})
    spelling = list(string.ascii_lowercase + string.digits)
    tokens = [*_SPECIAL, *string.punctuation, *spelling, *(f"##{letter}" for letter in spelling)]
    tokens += [word for word in words if word not in tokens]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=128)


def tiny_lm_tokenizer() -> PreTrainedTokenizerBase:
    """Return the same as a language model's: `[SEP]` ends a text and differs from the padding."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    return tokenizer


TINY_TEMPLATE = (
    "{% for message in messages %}{{ bos_token }} {{ message.role }} : {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }} assistant :{% endif %}"
)
"""A chat template without marks, which begins every turn with `[CLS]` and ends it with `[SEP]`."""


def tiny_chat_tokenizer(template: str = TINY_TEMPLATE) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a tiny language model with a chat template."""
    tokenizer = tiny_lm_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def tiny_chat_lm(folder: Path, template: str = TINY_TEMPLATE, *, seed: int = 0, hidden: int = 32) -> Path:
    """Write a two-layer Llama with its tokenizer and a chat template."""
    tiny_causal_lm(folder, seed=seed, hidden=hidden)
    tiny_chat_tokenizer(template).save_pretrained(folder)
    return folder


def tiny_chats(count: int, *, seed: int = 0) -> list[dict[str, object]]:
    """Make `count` rows with a column messages: one to three questions, each answered; some with a system turn."""
    draw, asked = random.Random(seed), tiny_rows(3 * count, seed=seed, words=6, hints=2)
    rows: list[dict[str, object]] = []
    for i in range(count):
        messages = [{"role": "system", "content": "please help"}] if i % 4 == 3 else []
        for row in asked[3 * i : 3 * i + 1 + draw.randrange(3)]:
            messages.append({"role": "user", "content": str(row["text"])})
            messages.append({"role": "assistant", "content": f"ask the {row['label']} team"})
        rows.append({"messages": messages})
    return rows


def tiny_prompts(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Make `count` rows with columns prompt and completion; which completion follows from the prompt's words."""
    return [
        {"prompt": str(row["text"]), "completion": f"please ask the {row['label']} team about your order"}
        for row in tiny_rows(count, seed=seed)
    ]


def tiny_classifier(folder: Path, labels: Sequence[str] | None = None, *, seed: int = 0, hidden: int = 32) -> Path:
    """Write a two-layer BERT with its tokenizer; without `labels` it is a bare encoder, as base models are."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=128,
        pad_token_id=_PAD,
    )
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config) if labels is None else BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_causal_lm(folder: Path, *, seed: int = 0, hidden: int = 32) -> Path:
    """Write a two-layer Llama with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_lm_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=_PAD,
        bos_token_id=_CLS,
        eos_token_id=_SEP,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


IMAGE_SIZE = 32
"""Pixels of a side of what the tiny image classifiers read."""


def tiny_image_classifier(
    folder: Path, family: ImageFamily = "vit", labels: Sequence[str] = ("cat", "dog"), *, seed: int = 0
) -> Path:
    """Write a classifier of images of 32 x 32 with its image processor; two layers, two stages, or three blocks.

    ViT has attention and LayerNorm; ResNet convolutions and BatchNorm; EfficientNet depthwise ones too, and dropout.
    """
    import torch
    from transformers import AutoModelForImageClassification

    config, processor = _image_family(family)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageClassification.from_config(config)
        _measure_statistics(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _measure_statistics(model: nn.Module) -> None:
    """Give BatchNorm the statistics of blurred noise: with those of no image, all images look alike to the head."""
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.fill_(1.0)  # transformers draws EfficientNet's from around 0
        noise = torch.nn.functional.interpolate(torch.rand(32, 3, 4, 4), size=IMAGE_SIZE, mode="bilinear")
        model.train()(pixel_values=2 * noise - 1)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _image_family(family: ImageFamily) -> tuple[PreTrainedConfig, Any]:
    """Return the config and the image processor of a tiny model of a family."""
    from transformers import (
        ConvNextImageProcessorPil,
        EfficientNetConfig,
        ResNetConfig,
        ViTConfig,
        ViTImageProcessorPil,
    )

    square = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    if family == "vit":
        config = ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=IMAGE_SIZE,
            patch_size=8,
        )
        return config, square
    if family == "resnet":
        return (
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
            ConvNextImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_pct=0.875),
        )
    return (
        EfficientNetConfig(
            image_size=IMAGE_SIZE,
            width_coefficient=0.25,
            depth_coefficient=1.0,
            hidden_dim=320,  # of 1280 so wide
            strides=[1, 2],
            num_block_repeats=[1, 2],
            depthwise_padding=[],
            batch_norm_momentum=0.1,
            kernel_sizes=[3, 3],
            in_channels=[32, 32],
            out_channels=[32, 64],
            expand_ratios=[1, 4],
        ),
        square,
    )


def tiny_checkpoint(
    folder: Path,
    labels: Sequence[str] = LABELS,
    *,
    phase: str = "base",
    start: Checkpoint | None = None,
    seed: int = 0,
    moved: Callable[[str], bool] = lambda _: True,
) -> Checkpoint:
    """Write a checkpoint, past the train stage; with `start`, one whose weights lie a random step from it.

    That step is taken by the parameters that `moved` says. Without `labels` it is a causal language model. Its
    tokenizer digest is that of `tiny_prepared`.
    """
    from ftlib.kinds.loading import load_model, save_model

    kind: BatchKind = "labeled" if labels else "tokens"
    with TemporaryDirectory() as fresh:
        if start is not None:
            origin = start.weights_folder
        else:
            origin = (
                tiny_classifier(Path(fresh), labels, seed=seed) if labels else tiny_causal_lm(Path(fresh), seed=seed)
            )
        model = load_model(origin, kind)
        _step_away(model, seed, moved)  # freshly made weights are so small that every row gets the same answer
        save_model(model, model_in(folder), tuple(labels), origin)
    return Checkpoint(
        uri=str(folder.absolute()),
        weights=weights_digest(model_in(folder)),
        parent=start.weights if start else None,
        tokenizer="tiny",
        config=config_digest(model_in(folder)),
        phase=phase,
        fresh_head=False,
        labels=tuple(labels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=0,
    )


def tiny_adapter(folder: Path, start: Checkpoint, *, phase: str = "tune", seed: int = 0, rank: int = 2) -> Checkpoint:
    """Write a checkpoint that is a LoRA adapter over a dense one, with a head of its own: a random step from it."""
    from peft import LoraConfig, get_peft_model

    from ftlib.kinds.loading import head_modules, load, save_adapter

    kind = KINDS["labeled" if start.labels else "tokens"]
    model = load(start, kind.name)
    heads = [] if kind.language else head_modules(model)
    config = LoraConfig(task_type=kind.task_type, r=rank, lora_alpha=4 * rank, modules_to_save=heads)
    wrapped = cast("nn.Module", get_peft_model(cast("Any", model), config)).requires_grad_(False)
    _step_away(wrapped, seed, lambda name: "lora_" in name or ".modules_to_save." in name)
    base = base_of(start)
    save_adapter(wrapped, model_in(folder), start.folder, base)
    return start.model_copy(
        update={
            "uri": str(folder.absolute()),
            "weights": adapter_digest(model_in(folder), base),
            "parent": start.weights,
            "config": config_digest(model_in(folder)),
            "phase": phase,
            "form": "adapter",
            "base": base,
        }
    )


def _step_away(model: nn.Module, seed: int, moved: Callable[[str], bool] = lambda _: True) -> None:
    import torch

    random_source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (parameter for name, parameter in model.named_parameters() if moved(name)):
            parameter += 0.1 * torch.randn(parameter.shape, generator=random_source)


def tiny_row_id(split: Split, i: int) -> str:
    """Return the id `tiny_prepared` gives to a split's row: 32 hex digits, as ingestion's."""
    return hashlib.sha256(f"{split}-{i}".encode()).hexdigest()[:32]


def tiny_prepared(
    folder: Path, rows: Mapping[Split, Sequence[Mapping[str, object]]], *, kind: BatchKind = "labeled"
) -> PreparedDataset:
    """Write rows of a kind of text as a prepared dataset, past the ingest and preprocess stages.

    Columns are called as the fields of the kind's format: text and label, words and tags, prompt and completion.
    """
    if KINDS[kind].modality != "text":
        raise ValueError(f"tiny_prepared has rows of text, got {kind!r}; lay them out with tiny_prepared_as")
    tokenizer = tiny_chat_tokenizer() if kind == "chats" else tiny_tokenizer()
    return tiny_prepared_as(folder, _format(kind), rows, Processor.of(tokenizer))


def tiny_prepared_as(
    folder: Path,
    format: Format,
    rows: Mapping[Split, Sequence[Mapping[str, object]]],
    processor: Processor,
) -> PreparedDataset:
    """Write rows as a format lays them out, one piece each, as a prepared dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[Split, SplitFacts] = {}
    inputs = format.inputs(processor)
    for split in SPLITS:
        examples = [format.example(cast("Values", row)) for row in rows.get(split, ())]
        kept = [example for example in examples if isinstance(example, Example)]
        encoded = format.encode(kept, processor) if kept else []
        written = [
            PreparedRow(tiny_row_id(split, i), piece.inputs, piece.target, supervised=piece.supervised)
            for i, found in enumerate(encoded)
            for piece in found.pieces
        ]
        write_split(split_file(folder, split), format.yields, written, inputs=inputs)
        splits[split] = _facts(written, format.yields, inputs)
    count = sum(facts.rows for facts in splits.values())
    return PreparedDataset(
        uri=str(folder.absolute()),
        content=digest([file_digest(split_file(folder, split)) for split in SPLITS]),
        kind=format.yields,
        labels=tuple(sorted({label for facts in splits.values() for label in facts.labels})),
        splits=splits,
        ledger=Ledger(rows_in=count, kept=count),
        leaked=0,
        tokenizer="tiny",
    )


def _format(kind: BatchKind) -> Format:
    """Return the first format that yields a kind, reading columns that are called as its own required fields are."""
    members: tuple[type[Format], ...] = get_args(get_args(Format)[0])
    format = next(member for member in members if member.yields == kind)
    required = [name for name, field in format.model_fields.items() if field.is_required()]
    return format.model_validate({name: name for name in required or ["messages"]})


def _facts(rows: Sequence[PreparedRow], kind: BatchKind, inputs: Inputs) -> SplitFacts:
    sizes = [row_size(inputs, row.inputs) for row in rows]
    labels = Counter(label for row in rows for label in labels_in(row.target)) if KINDS[kind].labeled else {}
    return SplitFacts(
        rows=len(rows),
        tokens=sum(sizes),
        supervised=sum(row.supervised for row in rows),
        truncated=0,
        longest=max(sizes, default=0),
        labels=dict(sorted(labels.items())),
    )


_RECIPE = """
name: tiny
model: {{path: {folder}/model}}
datasets:
  home:
    source: {{kind: files, path: {folder}/home.jsonl}}
    format: {{kind: labeled_text, text: text, label: label, max_tokens: 32}}
  away:
    source: {{kind: files, path: {folder}/away.jsonl}}
    format: {{kind: labeled_text, text: text, label: label, max_tokens: 32}}
    split: {{validation: 0.5, test: 0.5}}
phases:
  - {{name: probe, dataset: home, objective: {{kind: classification}}, tuning: {{kind: linear_probe}}}}
  - name: tune
    dataset: home
    objective: {{kind: classification}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 1, learning_rate: 1e-3}}
evaluations:
  home: {{dataset: home, metrics: [{{kind: accuracy}}, {{kind: macro_f1}}], resamples: 100}}
  away: {{dataset: away, role: shifted, metrics: [{{kind: accuracy}}, {{kind: macro_f1}}], resamples: 100}}
interpolation: {{kind: wise_ft, alphas: [0, 0.5, 1]}}
select: {{rule: best, by: away/accuracy}}
publish: {{name: tiny-router, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""


def tiny_recipe(folder: Path) -> Path:
    """Write a whole recipe with its model and rows: LP-FT, two evaluations, WiSE-FT, a registry in the folder."""
    tiny_classifier(folder / "model")
    write_jsonl(folder / "home.jsonl", tiny_rows(120))
    write_jsonl(folder / "away.jsonl", tiny_rows(60, seed=1))
    path = folder / "tiny.yaml"
    path.write_text(_RECIPE.format(folder=folder), encoding="utf-8")
    return path
