"""Model folders that stock transformers loads: random weights, and a real tokenizer or image processor."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftlib.testing.rows import SHARED, TOPICS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

ImageFamily = Literal["vit", "resnet", "efficientnet"]
TextFamily = Literal["t5", "bart", "marian"]

IMAGE_SIZE = 32
"""Pixels of a side of what the tiny image classifiers read."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_PAD, _CLS, _SEP = _SPECIAL.index("[PAD]"), _SPECIAL.index("[CLS]"), _SPECIAL.index("[SEP]")


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Return a real WordPiece tokenizer of about 250 tokens that can spell every ASCII text."""
    from transformers import BertTokenizer

    words = sorted({word for words in (*TOPICS, SHARED) for word in words.split()})
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


def tiny_text_to_text(folder: Path, family: TextFamily = "t5", *, seed: int = 0, hidden: int = 32) -> Path:
    """Write an encoder-decoder of two layers each with its tokenizer; `[SEP]` ends a text.

    T5 has relative positions and one table of words; BART learnt positions, and begins with the end token; Marian sines
    of positions, which are in no file.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM

    tokenizer = tiny_lm_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(_text_family(family, len(tokenizer), hidden))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _text_family(family: TextFamily, words: int, hidden: int) -> PreTrainedConfig:
    """Return the config of a tiny encoder-decoder."""
    from transformers import BartConfig, MarianConfig, T5Config

    ids: dict[str, Any] = {"vocab_size": words, "d_model": hidden, "pad_token_id": _PAD, "eos_token_id": _SEP}
    if family == "t5":
        ids |= {"d_kv": hidden // 4, "d_ff": 2 * hidden, "num_layers": 2, "num_heads": 4}
        ids["decoder_start_token_id"] = _PAD
        return T5Config(**ids)
    sizes: dict[str, Any] = {
        f"{half}_{what}": number
        for half in ("encoder", "decoder")
        for what, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 2 * hidden))
    }
    if family == "bart":
        ids |= {"bos_token_id": _CLS, "decoder_start_token_id": _SEP, "forced_eos_token_id": _SEP}
        return BartConfig(**ids, **sizes, max_position_embeddings=128)
    ids |= {"decoder_start_token_id": _PAD, "forced_eos_token_id": _SEP}
    return MarianConfig(**ids, **sizes, max_position_embeddings=128, decoder_vocab_size=words)


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
