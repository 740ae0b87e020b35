"""How pairs of answers to the prompts of some format's rows are laid out: as the rows are."""

from __future__ import annotations

from typing import Any

from ftlib.config import BatchKind
from ftlib.data.formats import Format
from ftlib.data.formats.preference import Preference
from ftlib.data.formats.text import TextFormat
from ftlib.data.processor import Processor

PAIRS: BatchKind = Preference.yields
"""The kind of batch that pairs make."""
PROMPT, CHOSEN, REJECTED = "prompt", "chosen", "rejected"


def pairs_of_answers(format: Format, processor: Processor) -> Format:
    """Return the format of pairs in the columns `PROMPT`, `CHOSEN` and `REJECTED`; `format` is of texts or chats."""
    assert isinstance(format, TextFormat)
    shared: dict[str, Any] = {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}
    shared |= {"max_tokens": format.max_tokens, "special_tokens": format.special_tokens}
    if (prompting := format.prompting) is not None:
        return Preference(**shared, prefix=prompting.prefix, separator=prompting.separator)
    template = format.chat_template(processor)
    return Preference(**shared, layout="chats", template=None if template is None else template.text)


def laid_out_for(pairs: Format, processor: Processor) -> Format:
    """Return `pairs` as another model reads them: chats by that model's own template, if it has one."""
    template: object = getattr(processor.tokenizer, "chat_template", None)
    if isinstance(pairs, Preference) and pairs.layout == "chats" and template:
        return pairs.model_copy(update={"template": None})
    return pairs
