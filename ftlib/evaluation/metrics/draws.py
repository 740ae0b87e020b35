"""Resamples as counts: how often each row was drawn is all that a sum over drawn rows needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int, Shaped


def share(part: Shaped[np.ndarray, "*n"], whole: Shaped[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Return the quotient; nan where the whole is 0."""
    import numpy as np

    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def times_drawn(rows: Int[np.ndarray, "resamples drawn"], of: int) -> Int[np.ndarray, "resamples rows"]:
    """Return how often each of `of` rows is in every resample."""
    import numpy as np

    flat = rows + of * np.arange(len(rows))[:, None]
    return np.bincount(flat.ravel(), minlength=of * len(rows)).reshape(-1, of)


def summed(
    drawn: Int[np.ndarray, "resamples rows"], matrix: Shaped[np.ndarray, "rows columns"]
) -> Int[np.ndarray, "resamples columns"]:
    """Return every resample's sum over its rows of a matrix of whole numbers or truth values."""
    import numpy as np

    # In floats, which hold these numbers exactly: numpy multiplies matrices of integers a hundred times slower.
    return (drawn.astype(np.float64) @ matrix.astype(np.float64)).astype(np.int64)
