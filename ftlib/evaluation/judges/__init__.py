"""Who says which of two answers is better: a language model here or elsewhere, a reward model, or a checker."""

from typing import Annotated

from pydantic import Field

from ftlib.evaluation.judges.endpoint import ByEndpoint
from ftlib.evaluation.judges.model import ByModel
from ftlib.evaluation.judges.reward import ByReward

Judge = Annotated[ByModel | ByEndpoint | ByReward, Field(discriminator="kind")]
