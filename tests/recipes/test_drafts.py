"""The pairs of recipes/dpo.yaml, of a tiny model's drafts."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlib.errors import DataError
from ftlib.testing import tiny_chat_lm, tiny_chats, write_jsonl
from recipes.drafts import LONGEST, build, main


def test_a_draft_is_what_stock_transformers_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_chat_lm(tmp_path / "model")
    chats = tiny_chats(3)
    rows = write_jsonl(tmp_path / "chats.jsonl", chats)
    assert build(model, rows, tmp_path / "out") == {"pairs": 3, "of": 3}
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert [pair["chosen"] for pair in pairs] == [chat["messages"][-1]["content"] for chat in chats]  # type: ignore[index]
    tokenizer, writer = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    for pair in pairs:
        inputs = tokenizer.apply_chat_template(
            pair["prompt"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            whole = writer.generate(
                inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=LONGEST
            )
        new = tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert pair["rejected"] == new.strip()
    assert main([str(model), str(rows), str(tmp_path / "out")]) == 0
    assert "is there already" in capsys.readouterr().out


def test_chats_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python -m recipes\.debian_descriptions"):
        build(tmp_path / "model", tmp_path / "chats.jsonl", tmp_path / "out")
