"""The published rule in numbers: planted overlaps, accuracies and claims."""

import numpy as np
import pandas as pd
import pytest

from grammar_lens.probing.published_rule import THIRDS, claims, holds


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.25, 0.35, "yes"),
        (0.15, 0.35, "undecided"),
        (0.1, 0.15, "no"),
        (0.45, 0.5, "no"),
    ],
)
def test_a_claim_holds_where_its_range_holds_the_interval(
    low: float, high: float, said: str
) -> None:
    assert holds(low, high, (0.2, 0.4)) == said
    assert holds(low, high, None) == "by construction"


def samples(deep: float) -> pd.DataFrame:
    """Three samples that differ by .001: tags share 30 %, a third of a layer is needed."""
    numbers = {
        "best_logistic": 0.9,
        "best_svm": 0.8,
        "coefficient": 0.3,
        "jaccard": 0.15,
        "needed_share_kept": 0.33,
        **dict.fromkeys((f"even_{x}" for x in THIRDS), 1 / 3),
        "kept_first": 1 - deep,
        "keys_first": 1 - deep,
    }
    table = pd.DataFrame([numbers] * 3)
    names = ["best_logistic", "coefficient", "jaccard", "needed_share_kept", "kept_first"]
    table[names] += np.array([[-0.001], [0.0], [0.001]])
    return table


@pytest.mark.parametrize(("deep", "said"), [(0.9, "yes"), (0.5, "no")])
def test_the_claims_follow_the_numbers(deep: float, said: str) -> None:
    table = claims(samples(deep), enough=0.95, kept_per_layer=False, chosen_per_layer=True)
    assert table.holds.tolist() == ["yes", "yes", "yes", "no", said]
    np.testing.assert_allclose(table.found, [0.33, 0.9, 0.3, 0.15, deep], rtol=1e-12)
    made = claims(samples(deep), enough=0.95, kept_per_layer=True, chosen_per_layer=True)
    assert made.holds.iloc[-1] == "by construction"
