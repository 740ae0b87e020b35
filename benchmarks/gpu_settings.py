"""Models, batches and each contestant's settings of `benchmarks.gpu_train`, written out: what is not here is a default.

The same for all: rows, starting weights, AdamW's rate and decay, rows a step, the longest row, bf16 over fp32 weights
(of LoRA over a bf16 base). `forward_tokens` is what one forward pass holds: a rival's micro-batch is so many tokens of
padded rows, ours a pack of so many. Where a card is too small for a contestant, the table says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Contestant = Literal["reglage", "reglage_compiled", "trainer", "trainer_tuned", "sft", "sft_tuned"]

NAMES: dict[Contestant, str] = {
    "reglage": "Réglage",
    "reglage_compiled": "Réglage, compiled layers",
    "trainer": "Trainer, defaults",
    "trainer_tuned": "Trainer, tuned",
    "sft": "SFTTrainer, defaults",
    "sft_tuned": "SFTTrainer, tuned: packed",
}
OURS: tuple[Contestant, ...] = ("reglage", "reglage_compiled")
DEFAULTS: tuple[Contestant, ...] = ("trainer", "sft")
TUNED: tuple[Contestant, ...] = ("trainer_tuned", "sft_tuned")


@dataclass(frozen=True)
class Size:
    """A model, and how it is trained on one card of 80 GB."""

    config: dict[str, int]
    """Of a Llama."""
    batch_size: int
    """Rows a step."""
    steps: int
    longest: int = 4096
    """Tokens of the longest row."""
    forward_tokens: int = 4096
    lora: bool = False
    recompute: bool = False
    """Whether its activations do not fit beside what it trains with."""
    at_least: int | None = None
    """Tokens a second on one H100: the goal."""

    @property
    def flops(self) -> int:
        """Return the FLOPs of a parameter and token; frozen weights have no gradient of their own."""
        return 4 if self.lora else 6

    @property
    def packs(self) -> int:
        """Return how many packs of the longest row's length hold a step's rows, which are 0.4 of that on average."""
        return max(1, round(0.4 * self.batch_size))

    @property
    def micro(self) -> int:
        """Return the rows of a padded micro-batch."""
        return max(1, self.forward_tokens // self.longest)


SIZES = {
    # The shape of Llama 3.2 1B with a smaller vocabulary: 1.04 billion parameters.
    "1b": Size(
        {
            **{"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 32_000},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
        },
        batch_size=32,
        steps=16,
        forward_tokens=16_384,
        at_least=53_000,
    ),
    # Llama 3.1 8B: 8.03 billion.
    "8b-lora": Size(
        {
            **{"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14_336, "vocab_size": 128_256},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
        },
        batch_size=8,
        steps=12,
        forward_tokens=4096,
        lora=True,
        at_least=10_000,
    ),
    # Llama 3.2 3B: 3.21 billion.
    "3b": Size(
        {
            **{"hidden_size": 3072, "num_hidden_layers": 28, "intermediate_size": 8192, "vocab_size": 128_256},
            **{"num_attention_heads": 24, "num_key_value_heads": 8, "tie_word_embeddings": True},
        },
        batch_size=16,
        steps=12,
        forward_tokens=4096,
        recompute=True,
        at_least=20_600,
    ),
    "tiny": Size(
        {
            **{"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 500},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
        },
        batch_size=4,
        steps=6,
        longest=64,
        forward_tokens=128,
        recompute=True,
    ),
    "tiny-lora": Size(
        {
            **{"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 500},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False},
        },
        batch_size=4,
        steps=6,
        longest=64,
        forward_tokens=128,
        lora=True,
    ),
}

LORA: dict[str, Any] = {"rank": 16, "alpha": 32.0}
"""Over all linear layers but the head, for everyone."""
OPTIMIZER: dict[str, Any] = {"learning_rate": 1e-4, "weight_decay": 0.01, "warmup": 0.06}


def settings_of(contestant: Contestant, size: Size) -> dict[str, Any]:
    """Return what a contestant is told beside rows, model and optimiser: fields of `compute`, or of its arguments."""
    steps = {"per_device_train_batch_size": size.micro, "gradient_accumulation_steps": size.batch_size // size.micro}
    match contestant:
        case "reglage" | "reglage_compiled":
            return {
                "workers": 0,
                "pack_tokens": size.forward_tokens,
                "activation_checkpointing": "selective" if size.recompute else "none",
                "compile": contestant == "reglage_compiled",
                "checkpoint_seconds": 3600.0,  # nobody saves while the clock runs
            }
        case "trainer":
            return steps
        case "trainer_tuned":
            return {
                **steps,
                "train_sampling_strategy": "group_by_length",
                "optim": "adamw_torch_fused",
                "gradient_checkpointing": size.recompute,
                "gradient_checkpointing_kwargs": {"use_reentrant": False},
                "dataloader_num_workers": 2,
                "dataloader_persistent_workers": True,
            }
        case "sft":  # without `max_length` it would cut rows at 1,024 tokens, and be measured on less
            return {**steps, "max_length": size.longest}
        case "sft_tuned":
            micro = min(size.micro, size.packs)
            return {
                "per_device_train_batch_size": micro,
                "gradient_accumulation_steps": max(1, size.packs // micro),
                "max_length": size.longest,
                "packing": True,
                "packing_strategy": "bfd",
                "optim": "adamw_torch_fused",
                "gradient_checkpointing": size.recompute,
                "gradient_checkpointing_kwargs": {"use_reentrant": False},
                "dataloader_num_workers": 2,
                "dataloader_persistent_workers": True,
            }
