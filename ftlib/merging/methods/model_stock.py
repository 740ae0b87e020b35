"""A ratio per tensor from the angle between fine-tunes, without any labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from ftlib.merging.methods.kernel import Chunk, Kernel, Meter, wide
from ftlib.merging.methods.products import Products

if TYPE_CHECKING:
    from torch import Tensor


class ModelStock(Kernel):
    """(1 - t) theta0 + t mean(theta_1..k), t = k cos / (1 + (k - 1) cos) (Jang et al. 2024, arXiv 2403.19522).

    cos is the mean cosine between the fine-tunes' differences from theta0, tensor by tensor: where fine-tunes agree,
    t is near 1; where they moved at random, near 0. t is kept between 0 and 1, and is 0 where nothing moved.
    """

    paper: ClassVar[str] = "Model Stock (arXiv 2403.19522)"
    scope: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    least_checkpoints: ClassVar[int] = 3

    kind: Literal["model_stock"] = "model_stock"

    @override
    def meter(self, count: int) -> Meter:
        return Products(count - 1, from_first=True)

    @override
    def reach(self, meter: Any, count: int) -> tuple[float, float]:
        tuned = count - 1
        mean = sum(meter.inner(i, j) for i in range(tuned) for j in range(tuned)) / tuned**2
        return ratio(meter, tuned) ** 2 * mean, mean

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        del chunk
        start, tuned = wide(tensors[0]), tensors[1:]
        mean = wide(tuned[0])
        for tensor in tuned[1:]:
            mean += tensor
        mean.div_(len(tuned))
        out.copy_(start - (start - mean).mul_(ratio(meter, len(tuned))))


def ratio(products: Products, count: int) -> float:
    """Return t for `count` fine-tunes."""
    cosines = [products.cosine(i, j) for i in range(count) for j in range(i)]
    defined = [cosine for cosine in cosines if cosine is not None]
    cosine = sum(defined) / len(defined) if defined else 0.0
    below = 1.0 + (count - 1) * cosine
    return max(0.0, min(1.0, count * cosine / below)) if below > 0.0 else 0.0
