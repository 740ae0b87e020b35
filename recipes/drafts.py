"""Pairs for preference learning: the answer that a chat has, and what a model writes in its place.

    python -m recipes.drafts models/smollm2-135m-instruct rows/debian/synopses.jsonl rows/drafts

writes `rows/drafts/pairs.jsonl`: the turns before each chat's last answer as `prompt`, that answer as `chosen`, and as
`rejected` the model's own, always its most probable token, 48 at most. A draft that is empty, or is the answer, makes
no pair. 300 chats take a model of 135M some minutes on two cores. `model.txt` says which weights wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftlib.data.chat_template import ChatTemplate
from ftlib.data.rows import Dropped
from ftlib.errors import DataError
from ftlib.models.folder import weights_digest
from recipes.building import build_once

LONGEST, AT_ONCE = 48, 16
"""Tokens of a draft, and chats that are asked at a time."""


def build(model: Path, chats: Path, out: Path) -> dict[str, int]:
    """Write the pairs below `out`, which must not exist; return how many there are, and of how many chats.

    Raises DataError where there are no chats, or none makes a pair; ModelError for a folder that is no chat model.
    """
    if out.exists():
        raise DataError(f"{out} exists already; rows are written to a new folder")
    if not chats.is_file():
        raise DataError(f"{chats} is not there; make it: python -m recipes.debian_descriptions {chats.parent}")
    turns = [json.loads(line)["messages"] for line in chats.read_text(encoding="utf-8").splitlines()]
    drafts = written(model, [chat[:-1] for chat in turns])
    pairs = [
        {"prompt": chat[:-1], "chosen": chat[-1]["content"], "rejected": draft}
        for chat, draft in zip(turns, drafts, strict=True)
        if draft not in ("", chat[-1]["content"].strip())
    ]
    if not pairs:
        raise DataError(f"none of the {len(turns)} chats in {chats} makes a pair; give others")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        (work := Path(scratch) / "rows").mkdir()
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in pairs)
        (work / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
        (work / "model.txt").write_text(f"{model}, weights {weights_digest(model)}\n", encoding="utf-8")
        work.rename(out)
    return {"pairs": len(pairs), "of": len(turns)}


def written(model: Path, chats: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """Return what a model says to each chat, whose last turn is the user's."""
    import torch

    from ftlib.kinds.heads.completions import continued
    from ftlib.kinds.loading import load_language_model, load_tokenizer

    writer, tokenizer = load_language_model(model), load_tokenizer(model)
    template = ChatTemplate(tokenizer)
    ends = () if template.end is None else (template.end,)
    prompts = [*_prompts(template, chats)]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    drafts = [""] * len(prompts)
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        with torch.inference_mode():
            said = continued(writer, [torch.tensor(prompts[row]) for row in rows], tokenizer, LONGEST, ends)
        for row, ids in zip(rows, said, strict=True):
            drafts[row] = tokenizer.decode(ids, skip_special_tokens=True).strip()
        print(f"\r{start + len(rows)} of {len(order)} drafts", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return drafts


def _prompts(template: ChatTemplate, chats: Sequence[Sequence[dict[str, Any]]]) -> Iterator[list[int]]:
    for chat in chats:
        prompt = template.prompt(chat)
        if isinstance(prompt, Dropped):
            raise DataError(f"the model's chat template does not write {str(chat)[:80]}: {prompt.detail}")
        yield prompt


def main(arguments: list[str]) -> int:
    """Build from a model and chats, the first two arguments, to the folder that the third names."""
    given = ["models/smollm2-135m-instruct", "rows/debian/synopses.jsonl", "rows/drafts"]
    model, chats, out = (Path(one) for one in [*arguments, *given[len(arguments) :]])

    def write() -> str:
        return ", ".join(f"{name} {count}" for name, count in build(model, chats, out).items())

    return build_once("drafts", out, out / "model.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
