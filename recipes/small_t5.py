"""A small T5 that knows nothing yet: a tokenizer made of the rows that it will learn, and random weights.

    python -m recipes.debian_descriptions rows/debian
    python -m recipes.small_t5 models/small-t5 rows/debian/translations.jsonl

The tokenizer is byte-pair encoding of 4,000 pieces over all texts of the rows, with T5's special tokens; the model has
two layers in its encoder and two in its decoder, 2.4 million weights (Raffel et al. 2020, arXiv 1910.10683). Every
build of the same rows gives the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from ftlib.errors import DataError
from ftlib.merging.files import new_model_folder
from ftlib.models.quiet import quiet
from recipes.building import build_once

PIECES = 4000
"""Of the tokenizer at most."""
SPECIAL = ("<pad>", "</s>", "<unk>")
"""In T5's order: what fills rows up, what ends a text, what cannot be spelt."""
LONGEST = 512
"""Tokens of a text that the tokenizer takes without complaint; T5 itself has no limit."""


def build(out: Path, files: Sequence[Path]) -> Path:
    """Write the model folder `out`, which must not exist or be empty, for the texts of these files of JSON lines.

    Raises DataError for a file that is not there or holds no texts.
    """
    import torch
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    texts = [text for file in files for text in _texts(file)]
    if not texts:
        raise DataError(f"no texts in {', '.join(map(str, files)) or 'no files'}; give rows as JSON lines")
    names: dict[str, Any] = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_pieces(texts), model_max_length=LONGEST, **names)
    settings: dict[str, Any] = {
        **{"vocab_size": len(tokenizer), "d_model": 192, "d_kv": 48, "d_ff": 512, "num_layers": 2, "num_heads": 4},
        **{"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(T5Config(**settings))
    with new_model_folder(out) as folder, quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out


def _texts(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read as JSON lines ({type(error).__name__}); build its rows first"
        ) from error
    for row in rows:
        values = cast("dict[str, object]", row).values() if isinstance(row, dict) else ()
        yield from (value for value in values if isinstance(value, str))


def _pieces(texts: Sequence[str]) -> Any:
    """Return byte-pair encoding over texts; what no piece spells is spelt by its bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=[*SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def main(arguments: list[str]) -> int:
    """Build to the first argument, from the rows that the others name."""
    out = Path(arguments[0] if arguments else "models/small-t5")
    files = [Path(name) for name in arguments[1:]] or [Path("rows/debian/translations.jsonl")]

    def write() -> str:
        build(out, files)
        return ""

    return build_once("small_t5", out, out / "config.json", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
