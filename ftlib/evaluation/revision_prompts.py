"""The prompts that a model drafts answers to, as rows of tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ftlib.data.formats import Format
from ftlib.data.inputs import INPUT_IDS
from ftlib.data.prepared import PreparedRow, write_split
from ftlib.data.processor import Processor
from ftlib.data.prompts import Prompt
from ftlib.evaluation.revisions import prompt_ids

TURNS = "turns"


def write_prompts(path: Path, prompts: Sequence[Prompt], layout: Format, processor: Processor) -> None:
    """Write prompts as rows of tokens, with their turns beside them."""
    rows = [
        PreparedRow(one.row_id, {INPUT_IDS: prompt_ids(one.turns, layout, processor)}, None, (json.dumps(one.turns),))
        for one in prompts
    ]
    write_split(path, layout.asked_as, rows, (TURNS,))
