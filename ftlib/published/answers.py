"""What a version's own answers looked like when it was published: what `monitor` holds live answers against."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ftlib.answer_log.profile import AnswerProfile, confidence_bin
from ftlib.config import REPORT
from ftlib.data.inputs import INPUT_IDS
from ftlib.data.prepared import split_file
from ftlib.errors import StorageError, first_line
from ftlib.evaluation.measured import Tables
from ftlib.kinds.kind import KINDS
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.progress import note
from ftlib.published.own_tokens import OwnTokens
from ftlib.recipe.evidence import Evidence


def answers(evidence: Evidence, tables: Tables) -> dict[str, JsonValue]:
    """Return the profile of the chosen candidate's answers on the report split, by evaluation of one label a row.

    Equal runs say the same: it is counted from the tables of outcomes. What has none any more has no profile.
    """
    profiles: dict[str, JsonValue] = {}
    for evaluation, cell in sorted(evidence.measured(evidence.selection.chosen.name).items()):
        dataset = evidence.recipe.evaluations[evaluation].dataset
        kind = KINDS[evidence.recipe.datasets[dataset].format.yields]
        if kind.outcomes is not LabelOutcomes or evidence.recipe.tasks:
            continue
        try:
            table = tables(cell)
        except StorageError as error:  # it was collected meanwhile: the version is no worse for it
            note("register", f"no profile of the answers in {evaluation}: {first_line(error)}")
            continue
        assert isinstance(table, LabelOutcomes)
        tokens, unknown = _tokens(evidence, dataset) if kind.modality == "text" else (0, 0)
        counted = answer_profile(table).model_copy(update={"tokens": tokens, "unknown": unknown})
        profiles[evaluation] = counted.model_dump(mode="json")
    return profiles


def answer_profile(table: LabelOutcomes) -> AnswerProfile:
    """Count a table of outcomes."""
    said = table.probabilities.max(axis=1) if len(table) else []
    confidence = Counter(confidence_bin(float(probability)) for probability in said)
    labels = Counter(table.labels[i] for i in table.predicted)
    return AnswerProfile(
        rows=len(table),
        right=int((table.gold == table.predicted).sum()),
        labels={label: labels[label] for label in table.labels},
        confidence=dict(sorted(confidence.items())),
    )


def _tokens(evidence: Evidence, dataset: str) -> tuple[int, int]:
    """Count the tokens of the report split's rows, and those that the vocabulary does not know."""
    from ftlib.kinds.loading import load_tokenizer

    tokenizer = load_tokenizer(Path(evidence.model.folder))
    return count_tokens(split_file(evidence.prepared[dataset].path, REPORT), tokenizer)


def count_tokens(split: Path, tokenizer: Any) -> tuple[int, int]:
    """Count a split's tokens, special ones left out, and those among them that stand for what is not known."""
    import pyarrow as pa

    own, tokens, unknown = OwnTokens.of(tokenizer), 0, 0
    file = pa.ipc.open_file(pa.memory_map(str(split)))
    for i in range(file.num_record_batches):
        ids = file.get_batch(i).column(INPUT_IDS).flatten().to_numpy(zero_copy_only=False)
        found = own.counts(ids)
        tokens, unknown = tokens + found[0], unknown + found[1]
    return tokens, unknown
