"""Predictions to a number. Belongs to the evaluate stage; each *reads* one or more batch kinds."""

from typing import Annotated

from pydantic import Field

from ftlib.metrics.accuracy import Accuracy
from ftlib.metrics.answer_exact_match import AnswerExactMatch
from ftlib.metrics.answer_f1 import AnswerF1
from ftlib.metrics.auroc import AUROC
from ftlib.metrics.bits_per_byte import BitsPerByte
from ftlib.metrics.bleu import Bleu
from ftlib.metrics.brier import Brier
from ftlib.metrics.chrf import ChrF
from ftlib.metrics.ece import ECE
from ftlib.metrics.entity_f1 import EntityF1
from ftlib.metrics.entity_precision import EntityPrecision
from ftlib.metrics.entity_recall import EntityRecall
from ftlib.metrics.entropy import Entropy
from ftlib.metrics.exact_match import ExactMatch
from ftlib.metrics.f1 import F1
from ftlib.metrics.hamming_loss import HammingLoss
from ftlib.metrics.log_loss import LogLoss
from ftlib.metrics.macro_f1 import MacroF1
from ftlib.metrics.macro_precision import MacroPrecision
from ftlib.metrics.macro_recall import MacroRecall
from ftlib.metrics.mcc import MCC
from ftlib.metrics.mean_absolute_error import MeanAbsoluteError
from ftlib.metrics.mean_squared_error import MeanSquaredError
from ftlib.metrics.micro_f1 import MicroF1
from ftlib.metrics.micro_precision import MicroPrecision
from ftlib.metrics.micro_recall import MicroRecall
from ftlib.metrics.nuclear_norm import NuclearNorm
from ftlib.metrics.pearson import Pearson
from ftlib.metrics.perplexity import Perplexity
from ftlib.metrics.precision import Precision
from ftlib.metrics.r2 import R2
from ftlib.metrics.ranking_precision import RankingPrecision
from ftlib.metrics.recall import Recall
from ftlib.metrics.rouge import Rouge
from ftlib.metrics.samples_f1 import SamplesF1
from ftlib.metrics.spearman import Spearman
from ftlib.metrics.subset_accuracy import SubsetAccuracy
from ftlib.metrics.tag_accuracy import TagAccuracy
from ftlib.metrics.weighted_f1 import WeightedF1

Metric = Annotated[
    Accuracy
    | MacroF1
    | MacroPrecision
    | MacroRecall
    | WeightedF1
    | Precision
    | Recall
    | F1
    | MCC
    | AUROC
    | LogLoss
    | Brier
    | ECE
    | Entropy
    | NuclearNorm
    | EntityF1
    | EntityPrecision
    | EntityRecall
    | TagAccuracy
    | AnswerExactMatch
    | AnswerF1
    | MicroF1
    | MicroPrecision
    | MicroRecall
    | SamplesF1
    | SubsetAccuracy
    | HammingLoss
    | RankingPrecision
    | MeanSquaredError
    | MeanAbsoluteError
    | R2
    | Pearson
    | Spearman
    | Perplexity
    | BitsPerByte
    | ExactMatch
    | Rouge
    | Bleu
    | ChrF,
    Field(discriminator="kind"),
]
