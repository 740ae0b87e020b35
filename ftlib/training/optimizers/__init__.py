"""How weights move along their gradients. Belongs to the train stage."""

from typing import Annotated

from ftlib.extensions import Open
from ftlib.training.optimizers.adafactor import Adafactor
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.optimizers.adamw_8bit import AdamW8bit
from ftlib.training.optimizers.apollo import APOLLO
from ftlib.training.optimizers.galore import GaLore
from ftlib.training.optimizers.muon import Muon
from ftlib.training.optimizers.sgd import SGD

Optimizer = Annotated[
    AdamW | SGD | Adafactor | Muon | AdamW8bit | GaLore | APOLLO,
    Open("reglage.optimizer", default="adamw"),
]
