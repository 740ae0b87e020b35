"""Where a parameter stands, by its name in memory and by that in the files that transformers saves."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ftlib.models.parameter_names import is_embedding


def test_a_head_is_no_embedding_in_memory_and_in_files(tmp_path: Path) -> None:
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=8))
    model.save_pretrained(tmp_path)
    for names in (dict(model.named_parameters()), load_file(tmp_path / "model.safetensors")):
        assert [name for name in names if is_embedding(name)] == ["gpt_neox.embed_in.weight"]
