"""Averages against TIES on twelve fine-tunes of one small language model (2511.21437, table 1, at a size of minutes).

The base learns docstrings of many libraries; each fine-tune goes on with those of one other library. Trainings are
plain torch and transformers; the merges are what `reglage interpolate` writes. Everything is asked about passages of
modules that nothing was trained on: of the twelve libraries, and of those that the base learnt.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.points import Measured
from ftlib.data.sources.passages import Library
from ftlib.fingerprint import digest
from ftlib.models.quiet import quiet

PIECES, TOKENS, WIDTH, LAYERS = 1024, 64, 96, 3
_END = "<end>"
_HELD = 5
"""One passage of so many, at least, is held back."""


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Return the log loss a token, on held-out passages of the twelve libraries and of the base's, of each merge.

    `single` is the mean of the fine-tunes, each asked about everything.
    """
    import torch

    folder = work / "twelve" / digest([seed, repr(sorted(settings.items()))])[:16]
    shutil.rmtree(folder, ignore_errors=True)
    known = [_passages(name, settings["rows"], seed) for name in settings["base"]]
    tasks = [_passages(name, settings["rows"], seed) for name in settings["libraries"]]
    tokenizer = _tokenizer([text for train, _ in known for text in train])
    general = _blocks(tokenizer, [text for _, held in known for text in held])
    special = [_blocks(tokenizer, held) for _, held in tasks]
    torch.manual_seed(seed)
    model = _random(tokenizer)
    _train(model, _blocks(tokenizer, [text for train, _ in known for text in train]), settings["learn"], seed)
    folders = [_saved(model, tokenizer, folder / "base")]
    for at, (train, _) in enumerate(tasks):
        tuned = _loaded(folders[0])
        _train(tuned, _blocks(tokenizer, train), settings["tune"], seed + 1 + at)
        folders.append(_saved(tuned, tokenizer, folder / f"tuned-{at}"))

    def asked(which: Path) -> dict[str, float]:
        model = _loaded(which)
        losses = [_loss(model, some) for some in special]
        return {"tasks/log_loss": float(np.mean(losses)), "general/log_loss": _loss(model, general)}

    arms = {"base": asked(folders[0])}
    singles = [asked(one) for one in folders[1:]]
    arms["single"] = {name: float(np.mean([one[name] for one in singles])) for name in singles[0]}
    for count in settings["counts"]:
        merged = folder / f"average-{count}"
        _merge(folders[1 : 1 + count], merged, "average", {"ingredients": list(range(count))})
        arms[f"average_{count}"] = asked(merged)
        for density in settings["densities"]:
            merged = folder / f"ties-{count}-{density}"
            _merge(folders[: 1 + count], merged, "ties", {"density": density, "scale": 1.0})
            arms[f"ties_{count}_{round(100 * density)}"] = asked(merged)
    shutil.rmtree(folder)
    return Measured(arms=arms)


def _passages(name: str, rows: int, seed: int) -> tuple[list[str], list[str]]:
    """Return a library's docstrings to train on, and a fifth of them, of other modules, which is held back."""
    found = [*Library(name).docstrings(rows)]
    modules = sorted({one.module for one in found}, key=lambda module: digest([seed, module]))
    left, held = len(found) / _HELD, set[str]()
    for module in modules:
        if left <= 0:
            break
        held.add(module)
        left -= sum(one.module == module for one in found)
    return [one.text for one in found if one.module not in held], [one.text for one in found if one.module in held]


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    pieces: Any = ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, vocab_size=PIECES, special_tokens=[_END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token=_END, pad_token=_END)


def _random(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    make: Any = LlamaConfig
    config = make(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=3 * WIDTH,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def _saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder)


def _blocks(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return passages one behind the other, cut into rows of TOKENS tokens."""
    import torch

    joined = [token for text in texts for token in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    rows = len(joined) // TOKENS
    return torch.tensor(joined[: rows * TOKENS], dtype=torch.long).reshape(rows, TOKENS)


def _train(model: Any, rows: Any, told: Mapping[str, Any], seed: int) -> None:
    """Train in place, by AdamW with a rate that falls to zero."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=told["rate"], weight_decay=0.0)
    model.train()
    for step in range(told["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = told["rate"] * min(1.0, (step + 1) / 20) * (1 - step / told["steps"])
        some = rows[torch.randint(len(rows), (told["batch"],), generator=draw)]
        optimizer.zero_grad()
        model(input_ids=some, labels=some).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _loss(model: Any, rows: Any) -> float:
    """Return the mean log loss a token, in nats."""
    import torch

    model.eval()
    with torch.inference_mode():
        return sum(float(model(input_ids=some, labels=some).loss) * len(some) for some in rows.split(64)) / len(rows)


def _merge(folders: Sequence[Path], out: Path, method: str, told: Mapping[str, Any]) -> None:
    from flows.models.merge_folders import kernel_of, merge_folders
    from ftlib.storage import Place

    kernel = kernel_of(method, len(folders), dict(told))
    merge_folders([str(one) for one in folders], str(out), kernel, Place.parse(str(out.parent)), workers=1)
