"""Tokens that a recipe adds: rows by hand, everything else to the bit, and what adapters train of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.loading import head_modules, load, load_unread
from ftlib.models.added_tokens import AddedToken
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.add_tokens import AddTokensJob, WithTokens, add_tokens
from ftlib.testing import tiny_chat_lm, tiny_classifier, tiny_text_to_text
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace

TOKENS = (AddedToken(token="<pkg>"), AddedToken(token="<ver>", like="invoice card", special=False))
MODELS: dict[str, Any] = {
    "bert": lambda folder: tiny_classifier(folder, ["a", "b"]),
    "llama": tiny_chat_lm,
    **{family: lambda folder, family=family: tiny_text_to_text(folder, family) for family in ("t5", "bart", "marian")},
}
KINDS: dict[str, Any] = {"bert": "labeled", "llama": "chats"}


def added(root: Path, folder: Path, tokens: tuple[AddedToken, ...] = TOKENS) -> WithTokens:
    return add_tokens(AddTokensJob(model=find_model(ModelRef(path=str(folder))), tokens=tokens), Workspace(root))


def tied(folder: Path) -> Path:
    """Write a Llama whose output is its embedding, with more rows than tokens, as models are padded."""
    tiny_chat_lm(folder)
    config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=True, vocab_size=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "bart"])
def test_rows_begin_as_means_and_all_else_is_what_it_was(tmp_path: Path, name: str) -> None:
    source = MODELS[name](tmp_path / "model")
    made = added(tmp_path / "work", source)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, made.path / "model"))
    assert before.keys() == after.keys()
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    n, like = len(tokenizer), tokenizer("invoice card", add_special_tokens=False)["input_ids"]
    assert made.ids == (n, n + 1)
    grown = [key for key in before if before[key].shape != after[key].shape]
    assert grown
    for key in before:
        old, new = before[key], after[key]
        if key in grown:
            old, new = (old.T, new.T) if old.shape[0] == 1 else (old, new)  # BART's bias
            assert np.array_equal(new[n], old.astype(np.float64).mean(0).astype(np.float32)), key
            assert np.array_equal(new[n + 1], old[like].astype(np.float64).mean(0).astype(np.float32)), key
        assert np.array_equal(new[: len(old)], old), key
    assert json.loads((made.path / "model" / "config.json").read_text())["vocab_size"] == n + 2


def test_a_special_token_is_written_by_templates_and_the_other_wherever_it_is_spelt(tmp_path: Path) -> None:
    made = added(tmp_path / "work", tiny_chat_lm(tmp_path / "model"))
    tokenizer: Any = AutoTokenizer.from_pretrained(made.path / "model")
    text = "the <pkg> invoice<ver>card"
    assert tokenizer.tokenize(text) == ["the", "<pkg>", "invoice", "<ver>", "card"]
    users = tokenizer.tokenize(text, split_special_tokens=True)  # as rows are read
    assert "<pkg>" not in users
    assert "<ver>" in users


def test_a_tied_output_stays_tied_and_rows_that_nobody_used_are_taken(tmp_path: Path) -> None:
    made = added(tmp_path / "work", tied(tmp_path / "model"))
    model: Any = AutoModelForCausalLM.from_pretrained(made.path / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape[0] == 256
    table = load(find_model(ModelRef(path=str(tmp_path / "model"))), "chats").get_submodule("model.embed_tokens").weight
    mean = table[: made.ids[0]].double().mean(0).float()  # type: ignore[union-attr]
    assert torch.equal(model.lm_head.weight[made.ids[0]], mean)


@pytest.mark.parametrize("name", ["tied", *MODELS])
def test_an_adapter_trains_these_rows_in_embedding_and_output(tmp_path: Path, name: str) -> None:
    """The reference: the stock model with the rows changed by hand, whatever peft does to compute them."""
    model = find_model(ModelRef(path=str((tied if name == "tied" else MODELS[name])(tmp_path / "model"))))
    kind = "chats" if name == "tied" else KINDS.get(name, "text_to_text")
    unread = load_unread(model, kind)
    heads = head_modules(unread)
    adapted: Any = LoRA(rank=2, token_rows=(5, 9)).prepare(unread, kind, heads)
    wanted: Any = load(model, kind)
    deltas = {n: p for n, p in adapted.named_parameters() if p.requires_grad and "tokens_delta" in n}
    assert all(torch.equal(p, wanted.get_input_embeddings().weight[[5, 9]]) for p in list(deltas.values())[:1])
    adapted = LoRA(rank=2, token_rows=(5, 9)).prepare(load(model, kind), kind, heads)
    with torch.no_grad():
        for n, parameter in adapted.named_parameters():
            if n in deltas:
                parameter.add_(0.5)
        tables = {id(m.weight): m.weight for m in (wanted.get_input_embeddings(), wanted.get_output_embeddings()) if m}
        for table in tables.values():
            table[[5, 9]] += 0.5
        ids = torch.tensor([[3, 5, 9, 7, 8]])
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if kind == "text_to_text" else {})}
        answer = wanted(**inputs).logits
        torch.testing.assert_close(adapted(**inputs).logits, answer, rtol=0, atol=2e-6)
        torch.testing.assert_close(adapted.merge_and_unload()(**inputs).logits, answer, rtol=0, atol=2e-6)


def test_what_cannot_be_added_is_said_in_one_line(tmp_path: Path) -> None:
    folder = tiny_chat_lm(tmp_path / "model")
    for token, said in (
        (AddedToken(token="invoice"), "has 'invoice' already, as number"),
        (AddedToken(token="<x>", like=" "), "is to begin like ' ', which no token stands for"),
    ):
        with pytest.raises(ModelError, match=said):
            added(tmp_path / "work", folder, (token,))
    model = load(find_model(ModelRef(path=str(folder))), "chats")
    with pytest.raises(RecipeError, match="5000 is no row of the model's embedding, which has 2"):
        LoRA(token_rows=(5000,)).prepare(model, "chats", [])
