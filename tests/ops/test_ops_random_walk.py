"""The walk on vectors against the published one: the dense matrix, squared."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array, eye_array

from weakseg.ops.affinity import pair_offsets, walk_affinity
from weakseg.ops.random_walk import random_walk, transition
from weakseg.types import WeaksegError

KERNELS = ("compiled", "torch")


def dense(affinity: torch.Tensor, offsets, beta: float, squarings: int) -> np.ndarray:
    """float64 (n, n): A with ones on the diagonal, power, columns normalised, squared."""
    height, width = affinity.shape[1:]
    a = np.eye(height * width)
    for p, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(height, width):
            if y + dy < height and 0 <= x + dx < width:
                i, j = y * width + x, (y + dy) * width + x + dx
                a[i, j] = a[j, i] = float(affinity[p, y, x])
    t = a**beta
    t /= t.sum(axis=0, keepdims=True)
    for _ in range(squarings):
        t = t @ t
    return t


def example(height=19, width=23, channels=3, radius=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    edge = torch.rand(height, width, generator=g) ** 3
    return torch.rand(channels, height, width, generator=g), walk_affinity(edge, radius)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("radius", "beta", "squarings"), [(5, 10, 8), (5, 8, 6), (3, 1, 0), (2, 2.5, 3)])
def test_as_the_squared_matrix(kernel, radius, beta, squarings):
    scores, affinity = example(radius=radius)
    offsets = pair_offsets(radius)
    expected = scores.flatten(1).double().numpy() @ dense(affinity, offsets, beta, squarings)
    got = random_walk(scores, transition(affinity, offsets, beta), 2**squarings, kernel=kernel)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.flatten(1).numpy(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 16), (4, 33)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_any_size(size, kernel):
    scores, affinity = example(*size)
    expected = scores.flatten(1).double().numpy() @ dense(affinity, pair_offsets(5), 10, 3)
    got = random_walk(scores, transition(affinity, pair_offsets(5), 10), 8, kernel=kernel)
    np.testing.assert_allclose(got.flatten(1).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_quarter_of_a_photograph(kernel):
    """60 x 80 cells, 256 steps; the reference is scipy's sparse matrix in float64."""
    scores, affinity = example(60, 80, 2)
    cells, rows, columns, values = np.arange(4800).reshape(60, 80), [], [], []
    for p, (dy, dx) in enumerate(pair_offsets(5)):
        left, right = max(0, -dx), 80 - max(0, dx)
        rows.append(cells[: 60 - dy, left:right].ravel())
        columns.append(cells[dy:, left + dx : right + dx].ravel())
        values.append(affinity[p, : 60 - dy, left:right].numpy().astype(float).ravel() ** 10)
    half = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(4800, 4800))
    a = (half + half.T + eye_array(4800)).tocsr()
    t = (a / a.sum(axis=0)[None]).T.tocsr()
    expected = scores.flatten(1).double().numpy()
    for _ in range(256):
        expected = (t @ expected.T).T
    got = random_walk(scores, transition(affinity, pair_offsets(5), 10), 256, kernel=kernel)
    np.testing.assert_allclose(got.flatten(1).numpy(), expected, atol=1e-6, rtol=0)


def test_columns_sum_to_one_and_outside_weighs_nothing():
    _, affinity = example()
    step = transition(torch.ones_like(affinity), pair_offsets(5), 10)  # even where targets lie outside
    torch.testing.assert_close(step.weights.sum(dim=0), torch.ones(19, 23))
    for i, (dy, dx) in enumerate(step.offsets):
        for y, x in np.ndindex(19, 23):
            inside = 0 <= y + dy < 19 and 0 <= x + dx < 23
            assert (float(step.weights[i, y, x]) > 0) == inside
    assert len(step.offsets) == 69


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_stays_and_nothing_leaves_its_range(kernel):
    scores, affinity = example()
    step = transition(affinity, pair_offsets(5), 10)
    assert torch.equal(
        random_walk(torch.full((1, 19, 23), 0.7), step, 256, kernel=kernel), torch.full((1, 19, 23), 0.7)
    )
    got = random_walk(scores, step, 7, kernel=kernel)
    assert float(scores.min()) - 1e-7 <= float(got.min()) <= float(got.max()) <= float(scores.max()) + 1e-7


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_wall_is_not_crossed(kernel):
    edge = torch.zeros(12, 20)
    edge[:, 10] = 1
    step = transition(walk_affinity(edge, 5), pair_offsets(5), 10)
    scores = torch.zeros(1, 12, 20)
    scores[:, :, :10] = 1
    got = random_walk(scores, step, 256, kernel=kernel)
    torch.testing.assert_close(got, scores)


@pytest.mark.parametrize("kernel", KERNELS)
def test_channels_do_not_meddle(kernel):
    scores, affinity = example(channels=5)
    scores[[1, 3]] = 0
    step = transition(affinity, pair_offsets(5), 8)
    together = random_walk(scores, step, 16, kernel=kernel)
    assert not together[[1, 3]].any()
    for k in range(5):
        torch.testing.assert_close(random_walk(scores[k : k + 1], step, 16, kernel=kernel)[0], together[k])
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(random_walk(scores[order], step, 16, kernel=kernel), together[order])


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_to_walk(kernel):
    _, affinity = example()
    step = transition(affinity, pair_offsets(5), 10)
    assert random_walk(torch.zeros(0, 19, 23), step, 4, kernel=kernel).shape == (0, 19, 23)
    assert not random_walk(torch.zeros(2, 19, 23), step, 4, kernel=kernel).any()
    scores = torch.rand(2, 19, 23)
    assert torch.equal(random_walk(scores, step, 0, kernel=kernel), scores)


def test_inputs_stay_and_threads_do_not_matter():
    scores, affinity = example(channels=4)
    before = scores.clone(), affinity.clone()
    step = transition(affinity, pair_offsets(5), 10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = random_walk(scores, step, 32)
        torch.set_num_threads(3)
        three = random_walk(scores, step, 32)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)
    assert torch.equal(scores, before[0])
    assert torch.equal(affinity, before[1])


def test_sentences():
    scores, affinity = example()
    step = transition(affinity, pair_offsets(5), 10)
    with pytest.raises(WeaksegError, match="cannot walk"):
        random_walk(scores[:, :, :9], step, 4)
    with pytest.raises(WeaksegError, match="one map an offset"):
        transition(affinity, pair_offsets(4), 10)
