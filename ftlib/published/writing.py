"""What a language model's folder writes after prompts: a version as its recipe says, any other as stock has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlib.errors import ModelError
from ftlib.kinds.predictions import WrittenText
from ftlib.models.adapter import ANYWHERE, Bases
from ftlib.published.predict import predict
from ftlib.registry.versions import MANIFEST

BATCH = 8


def written_answers(folder: Path, prompts: Sequence[str], max_new_tokens: int, bases: Bases = ANYWHERE) -> list[str]:
    """Return an answer for each prompt, always the most probable token.

    A folder that no run published gets prompts by its chat template, or as they are. Raises ModelError for a model that
    does not write.
    """
    if not (folder / MANIFEST).is_file():
        return _stock(folder, prompts, max_new_tokens, bases)
    answers = list(predict(folder, prompts, BATCH, bases, max_new_tokens))
    if wrong := [answer for answer in answers if not isinstance(answer, WrittenText)]:
        raise ModelError(f"{folder} writes no answers, got {type(wrong[0]).__name__}; give a language model")
    return [answer.text for answer in answers if isinstance(answer, WrittenText)]


def _stock(folder: Path, prompts: Sequence[str], max_new_tokens: int, bases: Bases) -> list[str]:
    """Return what stock transformers writes, the longest prompts first, in the order of the prompts."""
    import torch

    from ftlib.kinds.heads.completions import continued
    from ftlib.kinds.loading import load_language_model, load_tokenizer

    model, tokenizer = load_language_model(folder, bases), load_tokenizer(folder)
    asked: list[list[int]] = []
    for prompt in prompts:
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": prompt}]
            made = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        else:
            made = tokenizer(prompt)
        asked.append(made["input_ids"])
    order, answers = sorted(range(len(asked)), key=lambda i: -len(asked[i])), dict[int, str]()
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        with torch.inference_mode():
            written = continued(model, [torch.tensor(asked[row]) for row in rows], tokenizer, max_new_tokens)
        answers |= {
            row: tokenizer.decode(ids, skip_special_tokens=True) for row, ids in zip(rows, written, strict=True)
        }
    return [answers[row] for row in range(len(asked))]
