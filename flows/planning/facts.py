"""What a plan of a run says: its stages, trainings and what models are asked, with their memory and seconds."""

from typing import TYPE_CHECKING

from ftlib.config import Config

if TYPE_CHECKING:
    pass


class StagePlan(Config):
    """One stage call of the run to come."""

    stage: str
    state: str
    """done; to do; waits, where its input is not made yet; or every run."""
    facts: str = ""


class ThawPlan(Config):
    """One stage of a training whose layers begin to learn one after another."""

    step: int
    """Its first, counted from 1."""
    steps: int
    """0 of a stage that the training ends before."""
    trained: int
    seconds: float
    """Predicted; 0 where the training is done."""


class PhasePlan(Config):
    """One training, with what it moves and takes."""

    name: str
    tuning: str
    parameters: int
    trained: int
    rows: int
    tokens: int
    steps: int
    precision: str
    rows_at_a_time: int
    """Of one worker's largest micro-batch."""
    memory: dict[str, int]
    """Predicted bytes of one worker at its peak, by part."""
    memory_bytes: int
    """The sum of the parts."""
    room_bytes: int | None
    """What one worker has: a GPU, or its share of the machine; None where no GPU is seen here and no card is named."""
    fits: str
    """yes; the settings nearest to the recipe's that fit; no; or why it is unknown what passes hold, or what there is.
    """
    measured_bytes: int | None = None
    """What the training held, where it is done: all parts but `process`."""
    seconds: float
    """Predicted; 0 where it is done."""
    done: bool = False
    thaws: tuple[ThawPlan, ...] = ()
    """Its stages, where layers begin to learn one after another; memory is the last one's."""


class ScoringPlan(Config):
    """A model that is asked about rows and not trained: by a `score` or a `fisher`, with what it takes."""

    name: str
    parameters: int
    rows: int
    tokens: int
    memory_bytes: int
    """Predicted peak of one worker."""
    seconds: float
    """Predicted; 0 where it is done."""
    done: bool = False


class RunPlan(Config):
    """What a run would do."""

    name: str
    stages: tuple[StagePlan, ...]
    phases: tuple[PhasePlan, ...] = ()
    """Empty until the data is prepared."""
    scorings: tuple[ScoringPlan, ...] = ()
    """What is computed for the phases before they train, and of the choice for its version."""
    seconds: float | None = None
    """Predicted for all that is still to do; None until the data is prepared."""
    speed: str = ""
    """What the predicted times rest on."""
