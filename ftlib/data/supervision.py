"""What language models are taught, looked at before anything trains: faults that cost a training and raise no error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from ftlib.config import Config
from ftlib.data.row_targets import Target
from ftlib.wording import counted

Finding = Literal[
    "no_targets", "cut", "end_not_learnt", "end_is_padding", "double_start", "other_template", "header_learnt"
]

FINDINGS: Mapping[Finding, str] = MappingProxyType(
    {
        "no_targets": "teach nothing",
        "cut": "were too long and lost tokens or turns",
        "end_not_learnt": "do not teach the model to stop: no end token is learnt behind the answer",
        "end_is_padding": "end with the token that also fills rows up, which is told apart by the rows' lengths here "
        "and may not be elsewhere",
        "double_start": "begin with two tokens that begin a text: the template writes one, the tokenizer another",
        "other_template": "are written by another chat template than the model's own, by which it was trained so far",
        "header_learnt": "teach words that the template writes before an answer, the role's name for example: it "
        "writes no prompt for the answer (add_generation_prompt)",
    }
)
"""What is wrong with rows, and how it is said of them."""


class Supervision(Config):
    """What training rows of a language model may not be."""

    fails: tuple[Finding, ...] = ()
    """Findings of the audit that end the run before it trains; the others are told on the page. `end_not_learnt`, for
    example, for chats whose template must end every answer with its token."""


class Audit(Config):
    """What a dataset's training rows teach a language model."""

    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    findings: dict[Finding, int] = {}
    """Rows by what is wrong with them; a row may have several."""

    def notes(self) -> Iterator[str]:
        """Yield a clause for what is taught, and for each finding."""
        share = self.supervised / max(self.tokens, 1)
        yield f"{self.supervised:,} of {self.tokens:,} tokens are learnt ({share:.0%})"
        for finding in get_args(Finding):
            if rows := self.findings.get(finding, 0):
                yield f"{rows:,} of {counted(self.rows, 'training row')} {FINDINGS[finding]} ({finding})"


def learnt_places(target: Target, supervised: int, length: int) -> list[tuple[int, int]]:
    """Return which tokens of a language model's row are learnt: first places, and those behind the last."""
    if isinstance(target, dict) and "places" in target:
        return list(zip(target["places"][::2], target["places"][1::2], strict=True))
    return [(length - supervised, length)] if supervised else []
