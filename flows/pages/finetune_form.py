"""The form of a fine-tuning run: the settings people change, flat, as groups that are always there.

Prefect's form submits the wrong branch of a union of models, and drops what comes from a `default_factory`. So there
is neither here: what is left empty comes from the recipe, and the strict Recipe is built from the answers.
"""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.training.tuning import tunings
from ftlib.urls import secret_in

FROM_RECIPE = "from recipe"


class Training(BaseModel):
    """The last phase. What is left empty comes from the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tuning: str = Field(
        default=FROM_RECIPE,
        title="Tuning",
        description="Which weights move.",
        json_schema_extra={"position": 0, "enum": [FROM_RECIPE, *tunings()]},
    )
    learning_rate: float | None = Field(
        default=None, gt=0.0, title="Learning rate", description="At its highest.", json_schema_extra={"position": 1}
    )
    epochs: float | None = Field(
        default=None,
        gt=0.0,
        title="Epochs",
        description="Times that all rows are seen.",
        json_schema_extra={"position": 2},
    )
    batch_size: int | None = Field(
        default=None, gt=0, title="Batch size", description="Over all workers.", json_schema_extra={"position": 3}
    )
    lora_rank: int | None = Field(
        default=None, gt=0, title="LoRA rank", description="Only with tuning lora.", json_schema_extra={"position": 4}
    )
    frozen_layers: int | None = Field(
        default=None,
        ge=0,
        title="Frozen layers",
        description="Counted from the input; only with tuning frozen_layers.",
        json_schema_extra={"position": 5},
    )
    seed: int | None = Field(
        default=None, title="Seed", description="Of every draw of the run.", json_schema_extra={"position": 6}
    )

    def overrides(self) -> list[str]:
        """Return the recipe overrides that these answers stand for."""
        last = "phases.-1"
        kind = [] if self.tuning == FROM_RECIPE else [f"{last}.tuning={{kind: {self.tuning}}}"]
        return kind + _set(
            {
                f"{last}.optimizer.learning_rate": self.learning_rate,
                f"{last}.optimizer.epochs": self.epochs,
                f"{last}.optimizer.batch_size": self.batch_size,
                f"{last}.tuning.rank": self.lora_rank,
                f"{last}.tuning.layers": self.frozen_layers,
                "seed": self.seed,
            }
        )


class Publishing(BaseModel):
    """The published version. What is left empty comes from the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        default=None, title="Model name", description="In the registry.", json_schema_extra={"position": 0}
    )
    registry_folder: str | None = Field(
        default=None,
        title="Registry folder",
        description="One the worker sees.",
        json_schema_extra={"position": 1},
    )
    description: str | None = Field(
        default=None, title="Description", description="On the model card.", json_schema_extra={"position": 2}
    )

    def overrides(self) -> list[str]:
        """Return the recipe overrides that these answers stand for."""
        return _set({"publish.name": self.name, "publish.description": self.description}) + (
            [f"publish.to={{kind: folder, path: {_quoted(self.registry_folder)}}}"] if self.registry_folder else []
        )


class Computing(BaseModel):
    """Where and how fast; it changes no result. What is left empty comes from the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int | None = Field(
        default=None,
        ge=0,
        title="Workers",
        description="Ray workers; 0 trains in the flow's own process.",
        json_schema_extra={"position": 0},
    )
    threads: int | None = Field(
        default=None,
        gt=0,
        title="CPU threads per worker",
        description="All cores, shared out, if nobody says.",
        json_schema_extra={"position": 1},
    )
    budget: float | None = Field(
        default=None,
        ge=0.0,
        title="Budget",
        description="In the currency of the worker's prices; the run stops before it costs more.",
        json_schema_extra={"position": 2},
    )

    def overrides(self) -> list[str]:
        """Return the recipe overrides that these answers stand for."""
        answers = {"workers": self.workers, "threads": self.threads, "budget": self.budget}
        return _set({f"compute.{name}": answer for name, answer in answers.items()})


class Tracking(BaseModel):
    """Where the run is shown while it goes on, beside Prefect's page; it changes no result, and fails no run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensorboard: str | None = Field(
        default=None,
        title="TensorBoard folder",
        description="Event files are written below it.",
        json_schema_extra={"position": 0},
    )
    mlflow: str | None = Field(
        default=None,
        title="MLflow",
        description="A server, or sqlite:///mlflow.db.",
        json_schema_extra={"position": 1},
    )

    @field_validator("tensorboard", "mlflow")
    @classmethod
    def _no_secret(cls, place: str | None) -> str | None:
        """Raise RecipeError for a secret in a URL: no ValueError, whose message would repeat it."""
        if place and (secret := secret_in(place)):
            raise RecipeError(f"tracking: {secret}; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return place


def answered_recipe(
    recipe: str, training: Training, publishing: Publishing, computing: Computing, overrides: list[str]
) -> Recipe:
    """Build the strict recipe from the form's answers; the overrides come last. Raises RecipeError."""
    answers = [*training.overrides(), *publishing.overrides(), *computing.overrides()]
    return load_recipe(recipe, [*answers, *overrides])


def _set(values: dict[str, object]) -> list[str]:
    return [f"{path}={_quoted(value)}" for path, value in values.items() if value is not None]


def _quoted(value: object) -> str:
    """Write a value so that YAML reads the same: what a person typed into a text field stays text."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
