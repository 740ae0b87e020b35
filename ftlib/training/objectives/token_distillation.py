"""What a teacher says of every token, beside what the rows say: distillation of language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config, Fraction
from ftlib.errors import ModelError
from ftlib.kinds.batch import UNTAUGHT, Batch, LossSum
from ftlib.kinds.next_tokens import next_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class TokenDistillation(Config):
    """(1 - soft) cross-entropy + soft T^2 D(teacher at T, student at T), summed over the supervised tokens.

    D is KL(teacher || student) (Hinton et al. 2015, arXiv 1503.02531), or by `beta` the generalised Jensen-Shannon
    divergence of GKD (Agarwal et al. 2024, arXiv 2306.13649). The teacher is a companion, asked in every step and in
    eval mode: its answers to every token would be many times the rows. Neither's logits are ever whole in memory where
    they are too many.
    """

    temperature: float = Field(default=1.0, gt=0.0)
    """What logits are divided by before the softmax; 1 leaves the answers as they are."""
    soft: Fraction = 0.5
    """Weight of the teacher's answers; the rows' own tokens have the rest. 1 learns from the teacher alone."""
    beta: Fraction = 0.0
    """0: KL(teacher || student), which covers all that the teacher says; 1: KL(student || teacher), which keeps to what
    it says most; between them beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta)
    student."""

    companions: ClassVar[tuple[str, ...]] = ("teacher",)
    packs: ClassVar[bool] = True

    def loss(self, model: Any, batch: Batch, companions: Mapping[str, Any]) -> LossSum:
        """Return the sum in nats, and the number of supervised tokens.

        Raises ModelError for a teacher whose vocabulary is not the model's.
        """
        from ftlib.kinds.token_log_probs import token_terms

        terms = token_terms([companions["teacher"], model], batch, self._of_tokens)
        return LossSum(terms.sum(), (next_tokens(batch) != UNTAUGHT).sum())

    def _of_tokens(
        self, words: Tensor, teacher: Float[Tensor, "tokens words"], student: Float[Tensor, "tokens words"]
    ) -> Float[Tensor, " tokens"]:
        from torch.nn.functional import cross_entropy

        if teacher.shape != student.shape:
            raise ModelError(
                f"companions.teacher: its vocabulary has {teacher.shape[-1]} words, the model's {student.shape[-1]}, "
                "and answers are compared word by word; choose a teacher with the same vocabulary"
            )
        said, says = (logits / self.temperature for logits in (teacher, student))
        apart = divergence(said.log_softmax(-1), says.log_softmax(-1), self.beta)
        hard = cross_entropy(student, words, reduction="none")
        return (1 - self.soft) * hard + self.soft * self.temperature**2 * apart


class CausalLMDistillation(TokenDistillation):
    """Distillation of every next token of a text."""

    kind: Literal["causal_lm_distillation"] = "causal_lm_distillation"

    needs: ClassVar[BatchKind] = "tokens"


class CompletionDistillation(TokenDistillation):
    """Distillation of what follows a prompt, or of an assistant's turns: what is read and not learnt has no part."""

    kind: Literal["completion_distillation"] = "completion_distillation"

    needs: ClassVar[BatchKind] = "completions"


def divergence(
    teacher: Float[Tensor, "tokens words"], student: Float[Tensor, "tokens words"], beta: float
) -> Float[Tensor, " tokens"]:
    """Return each token's divergence of two log-distributions, in nats; see `TokenDistillation.beta`."""
    from math import log

    import torch
    from torch.nn.functional import kl_div

    def kl(of: Tensor, against: Tensor) -> Tensor:
        return kl_div(against, of, reduction="none", log_target=True).sum(-1)

    if beta in (0.0, 1.0):
        return kl(student, teacher) if beta else kl(teacher, student)
    middle = torch.logaddexp(teacher + log(beta), student + log(1 - beta))
    return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle)
