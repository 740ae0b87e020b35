"""Predictions to a number. Belongs to the evaluate stage; each *needs* a batch kind."""

from typing import Annotated

from pydantic import Field

from ftlib.metrics.accuracy import Accuracy
from ftlib.metrics.log_loss import LogLoss
from ftlib.metrics.macro_f1 import MacroF1
from ftlib.metrics.perplexity import Perplexity

Metric = Annotated[Accuracy | MacroF1 | LogLoss | Perplexity, Field(discriminator="kind")]
