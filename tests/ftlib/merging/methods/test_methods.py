"""Every merge method against float64 numpy written from its paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ftlib.merging.methods import (
    Average,
    Blocks,
    Chunk,
    Dare,
    Graft,
    Kernel,
    Lerp,
    Lines,
    ModelStock,
    Slerp,
    TaskArithmetic,
    Ties,
)
from ftlib.merging.methods.dare import kept_elements
from ftlib.merging.methods.kernel import BLOCK
from ftlib.merging.methods.lerp import lerp

CHUNK = Chunk("layers.2.weight", 3)


def run(kernel: Kernel, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Apply a method to whole vectors, as the engine does for a tensor that fits one chunk."""
    tensors = [torch.from_numpy(vector) for vector in vectors]
    meter = kernel.meter(len(tensors))
    for turn in range(meter.passes if meter else 0):
        assert meter is not None
        meter.add(turn, tensors)
        meter.close(turn)
    out = torch.empty_like(tensors[0])
    kernel.mix(CHUNK, tensors, meter, out)
    return out.numpy()


def drawn(count: int, size: int = 500, seed: int = 0, spread: float = 0.1) -> list[np.ndarray]:
    """Return theta0 and `count` fine-tunes of it in fp64."""
    random = np.random.default_rng(seed)
    start = random.normal(size=size)
    return [start, *(start + spread * random.normal(size=size) for _ in range(count))]


def same(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_slerp_is_shoemakes_formula(alpha: float, seed: int) -> None:
    a, b = drawn(1, seed=seed, spread=3.0)
    omega = np.arccos(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    expected = (np.sin((1 - alpha) * omega) * a + np.sin(alpha * omega) * b) / np.sin(omega)
    same(run(Slerp(alpha=alpha), [a, b]), expected)


def test_slerp_keeps_the_norm_of_ends_of_one_norm() -> None:
    a, b = (vector / np.linalg.norm(vector) for vector in drawn(1, spread=5.0))
    for alpha in (0.2, 0.5, 0.9):
        assert np.linalg.norm(run(Slerp(alpha=alpha), [a, b])) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("other", [lambda a: a * 1.0001, lambda a: -a, lambda a: 0 * a])
def test_slerp_of_ends_without_an_arc_is_the_straight_line(other) -> None:
    a = drawn(0)[0]
    same(run(Slerp(alpha=0.3), [a, other(a)]), 0.7 * a + 0.3 * other(a))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_model_stock_is_the_paper_s_ratio(count: int, overlap: float) -> None:
    start, *noisy = drawn(count, size=800)
    common = drawn(0, size=800, seed=9)[0]
    tuned = [overlap * (start + common) + (1 - overlap) * vector for vector in noisy]
    deltas = [vector - start for vector in tuned]
    pairs = [(i, j) for i in range(count) for j in range(i)]
    cosine = np.mean([deltas[i] @ deltas[j] / np.linalg.norm(deltas[i]) / np.linalg.norm(deltas[j]) for i, j in pairs])
    t = np.clip(count * cosine / (1 + (count - 1) * cosine), 0, 1)
    same(run(ModelStock(), [start, *tuned]), (1 - t) * start + t * np.mean(tuned, axis=0))


def test_model_stock_of_agreeing_fine_tunes_is_their_mean_and_of_opposite_ones_the_start() -> None:
    start, tuned = drawn(1)
    same(run(ModelStock(), [start, tuned, tuned]), tuned)
    assert run(ModelStock(), [start, tuned, 2 * start - tuned]).tobytes() == start.tobytes()
    assert run(ModelStock(), [start, start, start]).tobytes() == start.tobytes()


@pytest.mark.parametrize("scale", [-0.5, 0.3, 1.0, 1.7])
def test_task_arithmetic_adds_scaled_differences(scale: float) -> None:
    start, *tuned = drawn(3)
    same(run(TaskArithmetic(scale=scale), [start, *tuned]), start + scale * sum(vector - start for vector in tuned))


def test_one_task_vector_is_wise_ft() -> None:
    ends = drawn(1)
    same(run(TaskArithmetic(scale=0.3), ends), run(Lerp(alpha=0.3), ends))


def ties_of_the_paper(vectors: Sequence[np.ndarray], density: float, scale: float) -> np.ndarray:
    start, *tuned = vectors
    kept: list[np.ndarray] = []
    for vector in tuned:
        tau = vector - start
        smallest = np.sort(np.abs(tau))[::-1][max(1, int(np.ceil(density * tau.size))) - 1]
        kept.append(np.where(np.abs(tau) >= smallest, tau, 0.0))
    elected = np.sign(np.sum(kept, axis=0))
    agreeing = [np.where(np.sign(tau) == elected, tau, 0.0) for tau in kept]
    voters = np.maximum(1, np.sum([tau != 0 for tau in agreeing], axis=0))
    return start + scale * np.sum(agreeing, axis=0) / voters


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ties_is_the_paper_s_three_steps(count: int, density: float) -> None:
    vectors = drawn(count, size=1000)
    same(run(Ties(density=density, scale=0.8), vectors), ties_of_the_paper(vectors, density, 0.8))


@settings(max_examples=40)
@given(data=st.data(), density=st.floats(0.01, 1.0))
def test_the_threshold_is_the_sorted_one(data: st.DataObject, density: float) -> None:
    """With repeats, zeros and subnormals: magnitudes are exact in fp32 here."""
    values = st.floats(-4, 4, width=16, allow_subnormal=True)
    start = np.zeros(64)
    tuned = [data.draw(arrays.arrays(np.float64, 64, elements=values)) for _ in range(2)]
    same(run(Ties(density=density), [start, *tuned]), ties_of_the_paper([start, *tuned], density, 1.0))


def test_dare_drops_and_rescales_by_its_own_draw() -> None:
    start, *tuned = drawn(2, size=4000)
    masks = [kept_elements(7, CHUNK.name, i, 0, 0.9)[:4000] for i in (1, 2)]
    expected = start + 0.5 * sum(m * (vector - start) / 0.1 for m, vector in zip(masks, tuned, strict=True))
    same(run(Dare(drop=0.9, scale=0.5, seed=7), [start, *tuned]), expected)
    assert abs(np.mean(masks) - 0.1) < 0.02


def test_dare_keeps_the_expected_update() -> None:
    start, tuned = drawn(1)
    mean = np.mean([run(Dare(drop=0.5, seed=seed), [start, tuned]) for seed in range(400)], axis=0)
    assert np.abs(mean - tuned).max() < 6 * np.abs(tuned - start).max() / np.sqrt(400)


def test_what_dare_drops_depends_on_seed_name_position_and_block_alone() -> None:
    same_draw = kept_elements(1, "a", 1, 0, 0.5)
    assert (kept_elements(1, "a", 1, 0, 0.5) == same_draw).all()
    for other in ((2, "a", 1, 0), (1, "b", 1, 0), (1, "a", 2, 0), (1, "a", 1, 1)):
        assert 0.4 < (kept_elements(*other, 0.5) == same_draw).mean() < 0.6
    assert len(same_draw) == BLOCK


def test_a_soup_is_the_mean_of_its_ingredients() -> None:
    vectors = drawn(3)
    soup = Average(ingredients=(1, 2, 3))
    assert soup.inputs(4) == (1, 2, 3)
    same(run(soup, vectors[1:]), np.mean(vectors[1:], axis=0))
    with pytest.raises(ValueError, match="not distinct positions"):
        Average(ingredients=(1, 1)).inputs(3)


STILL: list[Kernel] = [
    Lerp(alpha=0.3),
    Lines(alpha=0.9, shallow=0.3),
    Blocks(alphas=(0.1, 0.4, 0.7)),
    Slerp(alpha=0.3),
    Average(ingredients=(1, 2)),
    ModelStock(),
    TaskArithmetic(scale=0.7),
    Ties(),
    Dare(),
    Graft(scale=0.7),
]


@pytest.mark.parametrize("kernel", STILL, ids=lambda kernel: kernel.kind)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_nobody_moved_is_kept_bit_for_bit(kernel: Kernel, dtype: type) -> None:
    value = np.array([-0.0, 0.0, 1e-45, -3.3, 1e30, 7.0, 0.1], dtype)
    inputs = 2 if kernel.pair or kernel.kind == "average" else 3
    assert run(kernel, [value] * inputs).tobytes() == value.tobytes()


FINITE = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.0, 1e-30])


@settings(max_examples=150)
@given(
    a=arrays.arrays(np.float32, 40, elements=FINITE),
    b=arrays.arrays(np.float32, 40, elements=FINITE),
    alpha=st.floats(1e-6, 1 - 1e-6) | st.sampled_from([0.5, 0.1, 0.9, 0.3]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_the_line_is_symmetric_idempotent_between_and_rounded_once(
    a: np.ndarray, b: np.ndarray, alpha: float, dtype: torch.dtype
) -> None:
    x, y = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
    mixed, swapped, still = (torch.empty_like(x) for _ in range(3))
    lerp(x, y, alpha, mixed)
    lerp(y, x, 1.0 - alpha, swapped)
    lerp(x, x.clone(), alpha, still)
    assert mixed.view(torch.uint8).equal(swapped.view(torch.uint8))
    assert still.view(torch.uint8).equal(x.view(torch.uint8))
    ulp = torch.finfo(dtype).eps * torch.maximum(x.abs(), y.abs()) + torch.finfo(dtype).smallest_normal
    assert (mixed >= torch.minimum(x, y) - ulp).all()
    assert (mixed <= torch.maximum(x, y) + ulp).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("alpha", [0.125, 0.3, 0.5, 0.7, 0.9])
def test_all_but_a_thousandth_are_correctly_rounded(dtype: torch.dtype, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, generator=generator).to(dtype)
    y = (x.double() * (1 + 0.1 * torch.randn(50_000, generator=generator).double())).to(dtype)
    mixed = torch.empty_like(x)
    lerp(x, y, alpha, mixed)
    exact = (1 - alpha) * x.double() + alpha * y.double()
    # fp64 does not decide a tie: a tenth of a difference of five units is half a unit in either direction
    either = [(exact * (1 + tiny)).to(dtype) for tiny in (-1e-15, 1e-15)]
    assert ((mixed != either[0]) & (mixed != either[1])).double().mean() < 1e-3
    naive = (1 - alpha) * x + alpha * y
    if dtype is torch.bfloat16 and alpha in (0.3, 0.7, 0.9):
        assert (naive != exact.to(dtype)).double().mean() > 0.1  # why it is not written that way


def test_alpha_by_module_and_depth() -> None:
    kernel = Lerp(alpha=0.4, modules={"classifier.*": 1.0, "*.norm.*": 0.0}, depth=(0.0, 1.0))
    assert kernel.source_of(Chunk("classifier.weight", 7)) == 1
    assert kernel.source_of(Chunk("layer.3.norm.bias", 7)) == 0
    assert kernel.alpha_at(Chunk("layer.3.weight", 7)) == pytest.approx(0.2)
    assert kernel.alpha_at(Chunk("pooler.weight", 7)) == pytest.approx(0.4)
    assert Lerp(alpha=0.4, depth=(0.0, 0.5, 1.0)).alpha_at(Chunk("layer.5.x", 7)) == pytest.approx(0.3)
    assert Lerp(alpha=0.4, depth=(0.5,)).alpha_at(Chunk("layer.5.x", 7)) == pytest.approx(0.2)
    assert kernel.whole_copy() is None


NAMES = ["model.embed_tokens.weight", *[f"model.layers.{i}.mlp.weight" for i in range(7)], "model.norm.weight"]


@pytest.mark.parametrize(("alpha", "shallow"), [(1.0, 0.3), (0.6, 0.0), (1.0, 0.7)])
def test_lines_is_the_paper_s_schedule_and_wise_ft_at_1(alpha: float, shallow: float) -> None:
    """Equation 4 of LiNeS, layers counted from 1; what is outside them is scaled like the first layer."""
    layers = 7
    paper = [shallow + (1 - shallow) * (layer - 1) / (layers - 1) for layer in range(1, layers + 1)]
    got = [Lines(alpha=alpha, shallow=shallow).alpha_at(Chunk(name, layers)) for name in NAMES]
    np.testing.assert_allclose(got, alpha * np.array([shallow, *paper, shallow]), atol=1e-15)
    assert (got[1], got[-2]) == (alpha * shallow, alpha)  # to the bit: an end is a copy
    assert {Lines(alpha=alpha, shallow=1.0).alpha_at(Chunk(name, layers)) for name in NAMES} == {alpha}
    a, b = drawn(1)
    chunk = Chunk(NAMES[3], layers)
    Lines(alpha=alpha, shallow=shallow).mix(
        chunk, [torch.from_numpy(v) for v in (a, b)], None, out := torch.empty(500).double()
    )
    same(out.numpy(), a + alpha * paper[2] * (b - a))


@pytest.mark.parametrize("layers", [3, 4, 5, 32])
def test_blocks_are_thirds_of_the_layers_as_numpy_cuts_them(layers: int) -> None:
    kernel = Blocks(alphas=(0.1, 0.5, 0.9))
    thirds = [alpha for alpha, part in zip(kernel.alphas, np.array_split(range(layers), 3), strict=True) for _ in part]
    assert [kernel.alpha_at(Chunk(f"h.{i}.weight", layers)) for i in range(layers)] == thirds
    assert [kernel.alpha_at(Chunk(name, layers)) for name in ("wte.weight", "ln_f.weight")] == [0.1, 0.9]


def test_ends_of_lines_and_blocks_are_copies() -> None:
    assert [Lines(alpha=a, shallow=g).whole_copy() for a, g in ((0.0, 0.4), (1.0, 1.0), (1.0, 0.4))] == [0, 1, None]
    assert [Blocks(alphas=(a, b, a)).whole_copy() for a, b in ((0, 0), (1, 1), (0, 1))] == [0, 1, None]
    chunk, first = Chunk("layers.2.weight", 3), Chunk("layers.0.weight", 3)
    assert (Lines(shallow=0.0).source_of(chunk), Lines(shallow=0.0).source_of(first)) == (1, 0)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_a_graft_adds_what_one_model_learnt_to_another(scale: float) -> None:
    start, end, onto = drawn(2)
    same(run(Graft(scale=scale), [start, end, onto]), onto + scale * (end - start))


@settings(max_examples=60)
@given(
    vectors=st.tuples(*[arrays.arrays(np.float32, 24, elements=FINITE)] * 2), scale=st.sampled_from([0.25, 0.7, 1.0])
)
def test_a_graft_onto_its_own_base_is_the_line_and_of_what_did_not_move_the_other_model(
    vectors: tuple[np.ndarray, np.ndarray], scale: float
) -> None:
    start, other = vectors
    line = other if scale == 1.0 else run(Lerp(alpha=scale), [start, other])
    same_base = run(Graft(scale=scale), [start, other, start])
    assert same_base.tobytes() == line.tobytes()
    assert run(Graft(scale=scale), [start, start, other]).tobytes() == other.tobytes()
