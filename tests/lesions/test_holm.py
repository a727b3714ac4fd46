"""Holm's correction against statsmodels'."""

import numpy as np
from statsmodels.stats.multitest import multipletests

from grammar_lens.lesions.holm import holm


def test_it_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 80):
        p = rng.random(n) ** 3
        p[: n // 3] = p[n // 2]  # ties
        np.testing.assert_array_equal(holm(p), multipletests(p, method="holm")[1])
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == [0.06, 0.03, 0.06]
    assert holm(np.array([])).tolist() == []
