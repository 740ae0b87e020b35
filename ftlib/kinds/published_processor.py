"""What a published tokenizer or image processor says, so that stock transformers asks as training did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats import Format
from ftlib.data.formats.text import reads_text
from ftlib.data.inputs import SEGMENTS
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load_processor, load_tokenizer
from ftlib.models.folder import CHAT_TEMPLATE, GENERATION_CONFIG
from ftlib.models.limits import ids_of, load_config, text_config, without_weights

_SAYS = "tokenizer_config.json"


def settle_processor(folder: Path, format: Format) -> None:
    """Write to a model's folder how the rows of a format were made, where its files say something else."""
    if reads_text(format):
        settle_tokenizer(folder, format.yields, format.special_tokens)
        _settle_chats(folder, format)
        if KINDS[format.yields].pools:
            _say_pooling(folder, format.max_tokens)
        return
    own = load_processor(folder)
    sized: Any = format.image_processor(own)
    if sized is not None and sized.to_dict() != cast(Any, own.image_processor).to_dict():
        sized.save_pretrained(folder)


def _settle_chats(folder: Path, format: Format) -> None:
    """Write the chat template that rows were written by, and the token that ends a turn, where the files say otherwise.

    Stock `generate` stops at the ends of generation_config.json, or else of config.json.
    """
    processor = load_processor(folder)
    template = format.chat_template(processor)
    if template is None:
        return
    if template.text != (own := cast(Any, processor.tokenizer).chat_template):
        _without_templates(folder, named=isinstance(own, dict))
        (folder / CHAT_TEMPLATE).write_text(template.text, "utf-8")
    config, file = text_config(load_config(folder)), folder / GENERATION_CONFIG
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    settings: dict[str, Any] = (
        json.loads(file.read_bytes())
        if file.is_file()
        else {name: id for name in names if (id := getattr(config, name, None)) is not None}
    )
    if (end := template.end) is not None and end not in (ends := ids_of(settings.get("eos_token_id"))):
        settings["eos_token_id"] = [*ends, end]
        file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _say_pooling(folder: Path, max_tokens: int) -> None:
    """Write the files by which sentence-transformers knows how a text's vector is made: the mean, of length 1."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    width = text_config(load_config(folder)).hidden_size
    means = {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    for name, says in (
        ("modules.json", modules),
        ("1_Pooling/config.json", means),
        ("sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False}),
    ):
        (folder / name).write_text(json.dumps(says, indent=2) + "\n", "utf-8")


def _without_templates(folder: Path, *, named: bool) -> None:
    """Take the templates out of tokenizer_config.json, and those by name, which would come before the one file."""
    settings: dict[str, object] = json.loads((folder / _SAYS).read_bytes()) if (folder / _SAYS).is_file() else {}
    if settings.pop("chat_template", None) is not None:
        (folder / _SAYS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if named and (folder / "additional_chat_templates").is_dir():
        shutil.rmtree(folder / "additional_chat_templates")


def settle_tokenizer(folder: Path, kind: BatchKind, special_tokens: SpecialTokens) -> None:
    """Write to a folder's tokenizer_config.json what its model was trained with, where it says something else.

    That is: whether texts that spell special tokens are split (a language model's is left alone: chat templates spell
    them); the token that fills rows up, where the model finds the place it reads by it; and no `token_type_ids` for a
    model that has no table of them. The tokens of all other texts stay as they are.
    """
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    changes: dict[str, object] = {}
    if not KINDS[kind].vocabulary and tokenizer.split_special_tokens != (special_tokens == "split"):
        changes["split_special_tokens"] = special_tokens == "split"
    if KINDS[kind].reads_one_place and (pad := text_config(config).pad_token_id) != tokenizer.pad_token_id:
        changes["pad_token"] = tokenizer.convert_ids_to_tokens(pad)
    if not KINDS[kind].language and SEGMENTS in tokenizer("a") and not _has_segments(config, folder):
        changes["model_input_names"] = [name for name in tokenizer.model_input_names if name != SEGMENTS]
    if changes:
        own: dict[str, object] = json.loads((folder / _SAYS).read_bytes()) if (folder / _SAYS).is_file() else {}
        (folder / _SAYS).write_text(json.dumps({**own, **changes}, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _has_segments(config: Any, folder: Path) -> bool:
    """Say whether the model has a table of segments; GPT-2 adds a token's embedding for them."""
    return any("token_type_embeddings" in name for name, _ in without_weights(config, folder).named_modules())
