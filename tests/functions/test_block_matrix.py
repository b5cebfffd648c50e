"""Matrices in blocks and banded factors do what plain matrices do."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from functions.model.scratch import Held
from functions.model.scratch import Scratch as Kept
from functions.registration.banded import BandedFactor
from functions.registration.block_matrix import BlockMatrix
from functions.registration.sheets import bending, membrane
from functions.store.scratch import Scratch


def symmetric(
    bounds: list[int], *, seed: int, share: float
) -> tuple[np.ndarray, dict[tuple[int, int], object]]:
    """A symmetric matrix of which a share of the blocks of groups is not 0, and its blocks."""
    rng = np.random.default_rng(seed)
    whole = np.zeros((bounds[-1], bounds[-1]))
    blocks: dict[tuple[int, int], object] = {}
    spans = [slice(a, b) for a, b in pairwise(bounds)]
    for i, rows in enumerate(spans):
        for j, columns in enumerate(spans[i:], start=i):
            if i != j and rng.random() > share:
                continue
            block = rng.normal(size=whole[rows, columns].shape)
            block = block + block.T if i == j else block
            whole[rows, columns], whole[columns, rows] = block, block.T
            blocks[i, j] = sparse.csr_matrix(block)
    return whole, blocks


def in_blocks(bounds: list[int], blocks: dict[tuple[int, int], object], kept: Kept) -> BlockMatrix:
    matrix = BlockMatrix(bounds, kept)
    for row in range(len(bounds) - 1):
        matrix.write(row, {j: block for (i, j), block in blocks.items() if i == row})
    return matrix


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_a_matrix_in_blocks_is_the_matrix(sizes: list[int], seed: int, share: float) -> None:
    bounds = [0, *np.cumsum(sizes).tolist()]
    whole, blocks = symmetric(bounds, seed=seed, share=share)
    matrix = in_blocks(bounds, blocks, Held())
    assert matrix.shape == whole.shape
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(bounds[-1], 2))
    np.testing.assert_allclose(matrix @ vectors, whole @ vectors, atol=1e-12)
    start, stop = sorted(rng.choice(bounds[-1] + 1, 2, replace=False).tolist())
    np.testing.assert_array_equal(matrix.take(start, stop).toarray(), whole[start:stop, start:stop])
    modes = rng.normal(size=(bounds[-1], 3))
    found = matrix.project(sparse.csr_matrix(modes)).toarray()
    np.testing.assert_allclose(found, modes.T @ whole @ modes, atol=1e-11)


def test_blocks_in_files_are_those_in_memory(tmp_path: Path) -> None:
    bounds = [0, 4, 9, 11]
    _, blocks = symmetric(bounds, seed=1, share=1.0)
    vectors = np.random.default_rng(0).normal(size=(11, 2))
    with Scratch(tmp_path / "scratch") as files:
        products = [in_blocks(bounds, blocks, kept) @ vectors for kept in (Held(), files)]
    np.testing.assert_array_equal(*products)


@pytest.mark.parametrize(("knots", "sheets"), [((1, 1), 1), ((9, 5), 1), ((6, 6), 3)])
def test_a_banded_factor_solves_what_it_is_of(knots: tuple[int, int], sheets: int) -> None:
    """Single sheets, and sheets that are coupled knot by knot."""
    size = knots[0] * knots[1]
    one = bending(knots) + 0.1 * membrane(knots) + 0.01 * sparse.identity(size)
    tie = sparse.csr_matrix(np.eye(sheets) * sheets - 1.0)
    matrix = (sparse.kron(sparse.identity(sheets), one) + sparse.kron(tie, sparse.identity(size))).tocsr()
    right = np.random.default_rng(0).normal(size=(size * sheets, 2))
    factor = BandedFactor.of(matrix)
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(matrix.toarray(), right), rtol=1e-8)


def test_the_order_of_unknowns_keeps_a_factor_narrow() -> None:
    """Row by row where that is best; by Cuthill and McKee where a sheet's knots come in any order."""
    knots = (12, 7)
    matrix = (bending(knots) + sparse.identity(84)).tocsr()
    assert len(BandedFactor.of(matrix).bands) == 2 * 7 + 1
    shuffled = np.random.default_rng(0).permutation(84)
    mixed = BandedFactor.of(matrix[shuffled][:, shuffled].tocsr())
    assert len(mixed.bands) <= 4 * 7


def test_what_is_not_definite_has_no_factor() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        BandedFactor.of(sparse.csr_matrix(np.array([[1.0, 2.0], [2.0, 1.0]])))


def test_what_is_definite_but_for_rounding_has_a_factor() -> None:
    """1 - 1e-20 is 1: rounding makes the second pivot 0."""
    matrix = sparse.csr_matrix(np.array([[1.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_allclose(matrix @ BandedFactor.of(matrix).solve(np.ones((2, 1))), 1.0, rtol=1e-6)
