"""What is minimised: a batch to a sum and a count. Belongs to the train stage; each *needs* a batch kind."""

from typing import Annotated

from pydantic import Field

from ftlib.objectives.answer_span import AnswerSpan
from ftlib.objectives.causal_lm import CausalLM
from ftlib.objectives.classification import Classification
from ftlib.objectives.completion import Completion
from ftlib.objectives.multi_label import MultiLabel
from ftlib.objectives.regression import Regression
from ftlib.objectives.token_classification import TokenClassification

Objective = Annotated[
    Classification | MultiLabel | Regression | TokenClassification | AnswerSpan | CausalLM | Completion,
    Field(discriminator="kind"),
]
