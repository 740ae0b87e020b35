"""Predictions to a number. Belongs to the evaluate stage; each *reads* one or more batch kinds."""

from typing import Annotated

from ftlib.evaluation.metrics.accuracy import Accuracy
from ftlib.evaluation.metrics.answer_exact_match import AnswerExactMatch
from ftlib.evaluation.metrics.answer_f1 import AnswerF1
from ftlib.evaluation.metrics.auroc import AUROC
from ftlib.evaluation.metrics.bits_per_byte import BitsPerByte
from ftlib.evaluation.metrics.bleu import Bleu
from ftlib.evaluation.metrics.brier import Brier
from ftlib.evaluation.metrics.chrf import ChrF
from ftlib.evaluation.metrics.denoising_loss import DenoisingLoss
from ftlib.evaluation.metrics.ece import ECE
from ftlib.evaluation.metrics.entity_f1 import EntityF1
from ftlib.evaluation.metrics.entity_precision import EntityPrecision
from ftlib.evaluation.metrics.entity_recall import EntityRecall
from ftlib.evaluation.metrics.entropy import Entropy
from ftlib.evaluation.metrics.exact_match import ExactMatch
from ftlib.evaluation.metrics.f1 import F1
from ftlib.evaluation.metrics.hamming_loss import HammingLoss
from ftlib.evaluation.metrics.log_loss import LogLoss
from ftlib.evaluation.metrics.macro_f1 import MacroF1
from ftlib.evaluation.metrics.macro_precision import MacroPrecision
from ftlib.evaluation.metrics.macro_recall import MacroRecall
from ftlib.evaluation.metrics.map import MAP
from ftlib.evaluation.metrics.map50 import MAP50
from ftlib.evaluation.metrics.masked_accuracy import MaskedAccuracy
from ftlib.evaluation.metrics.mcc import MCC
from ftlib.evaluation.metrics.mean_absolute_error import MeanAbsoluteError
from ftlib.evaluation.metrics.mean_squared_error import MeanSquaredError
from ftlib.evaluation.metrics.micro_f1 import MicroF1
from ftlib.evaluation.metrics.micro_precision import MicroPrecision
from ftlib.evaluation.metrics.micro_recall import MicroRecall
from ftlib.evaluation.metrics.mrr import MRR
from ftlib.evaluation.metrics.ndcg import NDCG
from ftlib.evaluation.metrics.nuclear_norm import NuclearNorm
from ftlib.evaluation.metrics.pair_accuracy import PairAccuracy
from ftlib.evaluation.metrics.pass_at_k import PassAtK
from ftlib.evaluation.metrics.pearson import Pearson
from ftlib.evaluation.metrics.perplexity import Perplexity
from ftlib.evaluation.metrics.precision import Precision
from ftlib.evaluation.metrics.preference_accuracy import PreferenceAccuracy
from ftlib.evaluation.metrics.preference_margin import PreferenceMargin
from ftlib.evaluation.metrics.r2 import R2
from ftlib.evaluation.metrics.ranking_precision import RankingPrecision
from ftlib.evaluation.metrics.recall import Recall
from ftlib.evaluation.metrics.recall_at import RecallAt
from ftlib.evaluation.metrics.reward import MeanReward
from ftlib.evaluation.metrics.reward_accuracy import RewardAccuracy
from ftlib.evaluation.metrics.reward_margin import RewardMargin
from ftlib.evaluation.metrics.rouge import Rouge
from ftlib.evaluation.metrics.samples_f1 import SamplesF1
from ftlib.evaluation.metrics.spearman import Spearman
from ftlib.evaluation.metrics.subset_accuracy import SubsetAccuracy
from ftlib.evaluation.metrics.tag_accuracy import TagAccuracy
from ftlib.evaluation.metrics.thumb_auroc import ThumbAUROC
from ftlib.evaluation.metrics.thumb_margin import ThumbMargin
from ftlib.evaluation.metrics.weighted_f1 import WeightedF1
from ftlib.evaluation.metrics.win_rate import WinRate
from ftlib.extensions import Open

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
    | MaskedAccuracy
    | DenoisingLoss
    | MAP
    | MAP50
    | MeanAbsoluteError
    | R2
    | Pearson
    | Spearman
    | Perplexity
    | RecallAt
    | MRR
    | NDCG
    | PairAccuracy
    | BitsPerByte
    | ExactMatch
    | MeanReward
    | PassAtK
    | WinRate
    | Rouge
    | Bleu
    | ChrF
    | PreferenceAccuracy
    | PreferenceMargin
    | RewardAccuracy
    | RewardMargin
    | ThumbMargin
    | ThumbAUROC,
    Open("reglage.metric"),
]
