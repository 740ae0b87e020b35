"""A head out of sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.identity import places
from ftlib.errors import RecipeError
from ftlib.models.checkpoint import Form
from ftlib.training.tuning.base import ENCODER, Facts, Problem, TuningBase, number_or_auto
from ftlib.wording import some

if TYPE_CHECKING:
    from torch import nn

_LABEL = "{label}"


def _says_something(sentence: str) -> str:
    if not sentence.strip():
        raise ValueError(f"{sentence!r} says nothing of the label; write a name or a sentence")
    return sentence


Sentence = Annotated[str, AfterValidator(_says_something)]


class ZeroShot(TuningBase):
    """The head's last linear layer alone, made from sentences about the labels: no label of a row teaches it.

    A label's embedding is the mean of its sentences' normalised embeddings, normalised again, as in CLIP (Radford et
    al. 2021, arXiv 2103.00020) and WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903); a row's logit is `scale` times
    its product with the row's own. What a stock head reads of a row is another vector than the sentence embedding, so
    the one is mapped to the other by least squares over the training rows, without their labels, and the map is
    folded into the head: W = scale * T A, b = scale * T a.

    Texts and sentences are embedded by the model itself. Images are, with the sentences, by the phase's companion
    `encoder`, a CLIP model, which may be the model that the recipe starts from.

    Followed by another phase, the line between the two ends runs from zero-shot to fine-tuned, as in WiSE-FT. The
    phase's optimiser does not apply.
    """

    kind: Literal["zero_shot"] = "zero_shot"
    sentences: dict[str, Annotated[tuple[Sentence, ...], Field(min_length=1)]] = {}
    """What stands for each label in the templates, for every label of the rows; empty: the labels' own names."""
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = (_LABEL,)
    """What is said of a label; `{label}` in it is replaced by each of the label's sentences in turn."""
    embedding: Literal["mean", "first", "head"] = "mean"
    """What of a text is its embedding: the mean over its tokens, or the first token, of the body's last layer; or what
    the head reads as it is, without a map."""
    scale: Annotated[Annotated[float, Field(gt=0.0)] | Literal["auto"], number_or_auto(zero=False)] = "auto"
    """What cosines are multiplied with. auto: what the encoder learned, as CLIP does; else of `SCALES` the one with the
    lowest loss on the dataset's validation rows; `USUAL` where there are none."""

    SCALES: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 70.0, 100.0)
    USUAL: ClassVar[float] = 20.0
    """What sentence encoders are trained with."""

    layer_decay: ClassVar[float] = 1.0
    fits: ClassVar[frozenset[BatchKind] | None] = frozenset({"labeled"})
    takes_steps: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False
    moves_head_only: ClassVar[bool] = True

    @field_validator("templates")
    @classmethod
    def _name_a_label(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if _LABEL not in template:
                raise ValueError(f"{template!r} would say the same of every label; put {_LABEL} into it")
        return templates

    @field_validator("sentences")
    @classmethod
    def _tell_labels_apart(cls, sentences: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        check_apart(sentences)
        return sentences

    @property
    @override
    def leaves(self) -> Form | None:
        """The form that it starts from: an adapter brings the head."""
        return None

    @override
    def asks(self, kind: BatchKind) -> tuple[str, ...]:
        return (ENCODER,) if kind == "labeled_images" else ()

    @override
    def check_labels(self, labels: Sequence[str]) -> None:
        self.spoken(labels)

    def spoken(self, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return what is said of each label, in their order.

        Raises RecipeError for a label without a sentence, or sentences of what is no label.
        """
        positions = places([*self.sentences], labels)
        if stray := [name for name, position in zip(self.sentences, positions, strict=True) if position is None]:
            raise RecipeError(
                f"tuning.sentences: no row has the label {some([*map(repr, stray)])}; the rows have {some(labels)}: "
                "remove it or correct its name"
            )
        given = {position: self.sentences[name] for name, position in zip(self.sentences, positions, strict=True)}
        if len(given) < len(positions):
            raise RecipeError("tuning.sentences: two of its names are one label; join their sentences")
        if self.sentences and (bare := [label for i, label in enumerate(labels) if i not in given]):
            raise RecipeError(
                f"tuning.sentences: nothing is said of the label {some([*map(repr, bare)])}; give each label of the "
                "rows at least one sentence"
            )
        return {
            label: tuple(template.replace(_LABEL, one) for template in self.templates for one in given.get(i, (label,)))
            for i, label in enumerate(labels)
        }

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Freeze everything: the head is not trained by gradient steps, it is solved for."""
        return model.requires_grad_(False)

    @override
    def solve(self, problem: Problem) -> Facts:
        """Make the head's last layer.

        Raises RecipeError for sentences that do not tell the labels apart, or that the model cannot read.
        """
        from ftlib.training.solved.zero_shot_head import make_head

        spoken = self.spoken(problem.labels)
        return make_head(problem, spoken, self.embedding, self.scale, self.SCALES, self.USUAL)

    @override
    def solved(self, hidden: int, outputs: int) -> int:
        return outputs * (hidden + 1)

    @override
    def solution(self, facts: Mapping[str, float | int | str]) -> str:
        on = f", chosen on {facts['scale_chosen_on']}" if "scale_chosen_on" in facts else ""
        told = (
            f"; what it reads tells {facts['explained']:.0%} of the embeddings' variance"
            if "explained" in facts
            else ""
        )
        return (
            f"the head alone, out of {facts.get('sentences', '–')} sentences; scale {facts.get('scale', '–')}{on}{told}"
        )


def check_apart(sentences_of: Mapping[str, Sequence[object]]) -> None:
    """Raise ValueError if the same is said of two labels."""
    owners: dict[object, str] = {}
    for label, sentences in sentences_of.items():
        for sentence in sentences:
            if (other := owners.setdefault(sentence, label)) != label:
                raise ValueError(
                    f"the labels {other!r} and {label!r} have a sentence in common, {sentence!r}, which cannot tell "
                    "them apart; give each its own"
                )
