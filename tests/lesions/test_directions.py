"""A subspace of the residual stream, whatever the vectors that span it."""

import numpy as np
import pytest

from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.directions import directions


def test_the_basis_is_orthonormal_and_spans_the_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 20)) * np.array([[1e-3], [1.0], [1e3]])
    found = directions("x", vectors, layer=2)
    assert len(found) == 3
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(3), atol=1e-12)
    kept = vectors @ found.basis.T @ found.basis
    np.testing.assert_allclose(kept, vectors, rtol=1e-9, atol=1e-12)
    # the projector is the pseudo-inverse's
    np.testing.assert_allclose(
        found.basis.T @ found.basis, np.linalg.pinv(vectors) @ vectors, atol=1e-9
    )


def test_vectors_that_depend_on_others_add_nothing():
    vectors = np.random.default_rng(1).normal(size=(2, 8))
    more = np.concatenate(
        [vectors, vectors[:1] * 3, vectors.sum(0, keepdims=True), np.zeros((1, 8))]
    )
    found = directions("x", more, layer=0)
    assert len(found) == 2
    first = directions("x", vectors, layer=0)
    np.testing.assert_allclose(found.basis.T @ found.basis, first.basis.T @ first.basis, atol=1e-12)


def test_more_vectors_than_dimensions():
    found = directions("x", np.random.default_rng(2).normal(size=(9, 4)), layer=0)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("vectors", [np.zeros((0, 6)), np.zeros((2, 6))])
def test_without_vectors_the_set_is_empty(vectors: np.ndarray):
    found = directions("x", vectors, layer=0)
    assert len(found) == 0
    assert found.basis.shape == (0, 6)


def test_what_it_is_of():
    found = directions("NOUN", np.eye(5)[:2], layer=3, site="resid_pre", mean=np.ones(5))
    assert repr(found) == "Directions NOUN: 2 at 'resid_pre' of layer 3"
    assert found.mean is not None
    assert found.mean.tolist() == [1.0] * 5
    assert directions("x", np.eye(5), layer=0).site == "resid_post"
    assert directions("x", np.eye(5), layer=0).mean is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_must_be_finite(bad: float):
    vectors = np.eye(4)
    vectors[1, 2] = bad
    with pytest.raises(GrammarLensError, match="the vectors of 'VERB' are not all finite: leave"):
        directions("VERB", vectors, layer=0)
