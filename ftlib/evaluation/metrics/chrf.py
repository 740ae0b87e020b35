"""chrF and chrF++."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.evaluation.metrics.corpus_scores import CorpusScore


class ChrF(CorpusScore):
    """F2 of runs of 1 to 6 characters over the corpus (Popović 2015); with `word_order: 2` it is chrF++ (2017)."""

    kind: Literal["chrf"] = "chrf"
    word_order: int = Field(default=0, ge=0, le=4)
    """Runs of up to so many words count too."""

    @override
    def scorer(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(word_order=self.word_order)
