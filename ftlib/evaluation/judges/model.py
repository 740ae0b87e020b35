"""A language model in this process, as a judge."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.errors import ModelError
from ftlib.evaluation.judges.base import AsksInWords, Cost, Pair, Verdict, read_reply
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.wording import counted


class ByModel(AsksInWords):
    """A causal language model's most probable reply; a chat template puts the question, where it has one."""

    unsaid: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    kind: Literal["model"] = "model"
    model: ModelRef
    """Where the judge is."""
    batch_size: int = Field(default=8, ge=1)
    """Questions at once."""

    @property
    @override
    def asks(self) -> Mapping[str, ModelRef]:
        return {"judge": self.model}

    @override
    def identity(self) -> str:
        return f"{super().identity()} {find_model(self.model).weights}"

    @override
    def verdicts(self, pairs: Sequence[Pair]) -> tuple[list[Verdict], Cost]:
        """Return a verdict for each pair. Raises ModelError for a model that cannot be asked, or has no room."""
        import torch

        from ftlib.kinds.heads.completions import continued

        begun = time.monotonic()
        model, tokenizer, positions = _loaded(self.model.path, self.model.revision)
        asked = [_tokens(tokenizer, self.question(pair)) for pair in pairs]
        longest = max(map(len, asked), default=0) + self.max_new_tokens
        if positions is not None and longest > positions:
            raise ModelError(
                f"judge {self.model.path}: its longest question and reply have {counted(longest, 'token')}, and it "
                f"reads {positions}; give another judge, or shorter answers"
            )
        order, replies = sorted(range(len(asked)), key=lambda i: -len(asked[i])), dict[int, list[int]]()
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            with torch.inference_mode():
                prompts = [torch.tensor(asked[row]) for row in rows]
                replies |= dict(zip(rows, continued(model, prompts, tokenizer, self.max_new_tokens), strict=True))
        said = [tokenizer.decode(replies[row], skip_special_tokens=True) for row in range(len(asked))]
        cost = Cost(
            calls=len(asked),
            tokens_in=sum(map(len, asked)),
            tokens_out=sum(map(len, replies.values())),
            seconds=time.monotonic() - begun,
        )
        return [*map(read_reply, said)], cost


def _tokens(tokenizer: Any, question: str) -> list[int]:
    if not tokenizer.chat_template:
        return tokenizer(f"{question}\nAnswer:", verbose=False)["input_ids"]
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, tokenizer_kwargs={"verbose": False}
    )["input_ids"]


@cache
def _loaded(path: str, revision: str | None) -> tuple[Any, Any, int | None]:
    from ftlib.kinds.loading import load_language_model, load_tokenizer
    from ftlib.models.limits import limits_of

    folder = find_model(ModelRef(path=path, revision=revision)).folder
    return load_language_model(folder), load_tokenizer(folder), limits_of(folder).positions
