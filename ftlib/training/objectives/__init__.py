"""What is minimised: a batch to a sum and a count. Belongs to the train stage; each *needs* a batch kind."""

from typing import Annotated

from ftlib.extensions import Open
from ftlib.training.objectives.answer_span import AnswerSpan
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.objectives.classification import Classification
from ftlib.training.objectives.completion import Completion
from ftlib.training.objectives.cosine import Cosine
from ftlib.training.objectives.denoising import Denoising
from ftlib.training.objectives.detection import Detection
from ftlib.training.objectives.distillation import Distillation
from ftlib.training.objectives.dpo import DPO
from ftlib.training.objectives.grpo import GRPO
from ftlib.training.objectives.kto import KTO
from ftlib.training.objectives.masked_lm import MaskedLM
from ftlib.training.objectives.mixup import Mixup
from ftlib.training.objectives.multi_label import MultiLabel
from ftlib.training.objectives.multiple_negatives import MultipleNegatives
from ftlib.training.objectives.orpo import ORPO
from ftlib.training.objectives.r_drop import RDrop
from ftlib.training.objectives.regression import Regression
from ftlib.training.objectives.reward import BradleyTerry
from ftlib.training.objectives.rloo import RLOO
from ftlib.training.objectives.simpo import SimPO
from ftlib.training.objectives.token_classification import TokenClassification
from ftlib.training.objectives.token_distillation import CausalLMDistillation, CompletionDistillation

Objective = Annotated[
    Classification
    | Distillation
    | RDrop
    | Mixup
    | Cosine
    | MultiLabel
    | Regression
    | TokenClassification
    | AnswerSpan
    | CausalLM
    | MaskedLM
    | MultipleNegatives
    | BradleyTerry
    | Completion
    | CausalLMDistillation
    | CompletionDistillation
    | Denoising
    | Detection
    | RLOO
    | GRPO
    | DPO
    | KTO
    | ORPO
    | SimPO,
    Open("reglage.objective"),
]
