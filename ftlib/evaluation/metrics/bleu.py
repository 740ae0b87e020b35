"""BLEU."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import override

from ftlib.evaluation.metrics.corpus_scores import CorpusScore


class Bleu(CorpusScore):
    """BLEU of the corpus (Papineni et al. 2002, Post 2018, arXiv 1804.08771); not a mean over rows."""

    kind: Literal["bleu"] = "bleu"
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """sacrebleu's tokenizer: `zh` for Chinese, `char` where words are not set apart."""
    lowercase: bool = False
    """Compare texts without regard to case."""

    @override
    def scorer(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=self.tokenize, lowercase=self.lowercase, force=True)  # force: no advice on stderr
