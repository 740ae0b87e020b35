"""Models under a prompt of peft's that was learnt: they answer for their input's tokens alone, and go on from texts.

The trap: of a model under prompt tuning or P-tuning, what it says of each token begins with what it says of the
prompt's own places, so every target would be paired with another token's logits. They are cut off here, by a hook that
whoever wraps or loads such a model puts on it. Prefix tuning puts keys and values into the layers, and adds no places.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from ftlib.models.adapter import LENGTHENING, PROMPTS

_BY_TOKEN = ("logits", "start_logits", "end_logits")


def method_of(model: nn.Module) -> str:
    """Return peft's name for the method of the adapter over a model; empty without one."""
    configs: Any = getattr(model, "peft_config", {})
    return configs["default"].peft_type.value if "default" in configs else ""


def is_prompted(model: nn.Module) -> bool:
    """Say whether a model stands under a prompt that was learnt."""
    return method_of(model) in PROMPTS


def answering_for_its_input(model: nn.Module) -> nn.Module:
    """Let a model that peft has wrapped say nothing of its prompt's places; others stay as they are.

    The places' numbers become a buffer: what copies a model without memory then knows of them.
    """
    if is_prompted(model):
        model.register_buffer("prompt_places", cast(Any, model).prompt_tokens["default"], persistent=False)
    if method_of(model) in LENGTHENING:
        model.register_forward_hook(_without_prompt)
    return model


def _without_prompt(model: Any, _: object, output: Any) -> Any:
    places = model.peft_config["default"].num_virtual_tokens
    for name in _BY_TOKEN:
        answers: Tensor | None = getattr(output, name, None)
        # A row's own answer has no places: rows x labels.
        if answers is not None and answers.ndim == (3 if name == "logits" else 2):
            output[name] = answers[:, places:]
    return output


def in_even_lengths(prompts: Sequence[Tensor], go_on: Callable[[Sequence[Tensor]], list[list[int]]]) -> list[list[int]]:
    """Return what `go_on` makes of texts, which it is given in groups of one length, in their own order.

    Under a prompt peft counts positions from the row's start, padding included: a text that is padded on the left would
    stand further from the prompt than it did in training.
    """
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    written: list[list[int]] = [[] for _ in prompts]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Position ids are not supported")  # of peft, which counts them itself
        for places in by_length.values():
            for number, ids in zip(places, go_on([prompts[number] for number in places]), strict=True):
                written[number] = ids
    return written
