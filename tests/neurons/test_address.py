"""One parser for the addresses of neurons, and sets that are built and combined by them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_figures import LABELS, made_moments

import grammar_lens as gl
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.address import parse_addresses
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.scoring import score


@pytest.fixture
def keys() -> KeyNeurons:
    return select(score(made_moments(LABELS)), k=6)


@pytest.mark.parametrize(
    "given",
    [
        "7.336, 6.12",
        "7.336 6:12;7.336",
        ["7.336", (6, 12)],
        ((7, 336), "6.12"),
        np.array([[7, 336], [6, 12]]),
        Neurons.at([(7, 336), (6, 12)]),
    ],
)
def test_every_form_of_several_addresses(given: Any) -> None:
    assert parse_addresses(given).tolist() == [[7, 336], [6, 12]]


@pytest.mark.parametrize(
    "given", ["7.336", "7:336", "7, 336", (7, 336), [7, 336], np.array([7, 336])]
)
def test_every_form_of_one_address(given: Any) -> None:
    assert parse_addresses(given).tolist() == [[7, 336]]


@pytest.mark.parametrize(
    "given", ["VERB", "", "7", "7.336 x", 7, [7], [(7, 336, 1)], [None], (1.5, 2)]
)
def test_what_is_no_address(given: Any) -> None:
    with pytest.raises(GrammarLensError, match="no neuron's address"):
        parse_addresses(given)


def test_without_takes_away_what_is_named_or_says_why_not(keys: KeyNeurons) -> None:
    first = keys[LABELS[0]]
    layer, index = next(iter(first))
    left = first.without(f"{layer}.{index}")
    assert list(left) == list(first)[1:]
    assert list(first.without((layer, index))) == list(left)
    assert list(first.without(first.top(1))) == list(left)
    with pytest.raises(GrammarLensError, match="no neuron's address"):
        first.without(LABELS[0])
    with pytest.raises(GrammarLensError, match="of one site can"):
        first.without(replace(first, site="resid_post"))


def test_algebra_of_sets(keys: KeyNeurons) -> None:
    a, b = keys[LABELS[0]], keys[LABELS[1]].top(3)
    both = a | b
    assert list(both) == list(dict.fromkeys([*a, *b]))
    assert both.mean is not None
    at = dict(zip(both, both.mean, strict=True))
    assert keys.units is not None
    assert all(m == keys.units.mean[pair] for pair, m in at.items())
    assert set(both - b) == set(a) - set(b)
    assert list(both & b) == [x for x in both if x in set(b)]
    assert both.name == f"{LABELS[0]} | {LABELS[1]}"
    assert list(a - a) == []
    assert list(a & []) == []
    assert "0.0" in (a | keys.pick("0.0"))
    assert "0.0" not in (a - "0.0")


def test_means_are_not_lost_in_a_union(keys: KeyNeurons) -> None:
    first = keys[LABELS[0]]
    with pytest.raises(GrammarLensError, match=r"keys\.pick"):
        _ = first | "0.39"
    assert (first | []).mean is first.mean
    assert (Neurons.at("0.1") | "0.2").mean is None


def test_picked_neurons_have_their_means(keys: KeyNeurons) -> None:
    picked = keys.pick(["2.3", (0, 1)])
    assert keys.units is not None
    assert picked.mean is not None
    assert picked.mean.tolist() == [keys.units.mean[2, 3], keys.units.mean[0, 1]]
    with pytest.raises(GrammarLensError, match=r"9\.0 does not exist"):
        keys.pick("9.0")


def test_a_set_by_layer_and_slice(tiny: Model) -> None:
    some = gl.neuron_set(tiny, layer=1, indices=slice(0, 5))
    assert list(some) == [(1, i) for i in range(5)]
    assert len(gl.neuron_set(tiny, layer=[0, 1])) == 2 * 48
    assert list(gl.neuron_set(tiny, "0.3", layer=1, indices=[7])) == [(0, 3), (1, 7)]
    assert some.mean is None
    with pytest.raises(GrammarLensError, match="does not exist"):
        gl.neuron_set(tiny, "0.48")
    with pytest.raises(GrammarLensError, match="layer 2 does not exist"):
        gl.neuron_set(tiny, layer=2)
    with pytest.raises(GrammarLensError, match="say which"):
        gl.neuron_set(tiny)


def test_means_measured_are_those_of_a_collection(tiny: Model, bank: gl.Treebank) -> None:
    some = gl.neuron_set(tiny, ["1.7", "0.3"], bank=bank["train"], position="word")
    pooled, _ = gl.collect(tiny, bank["train"], position="word")["neuron"].pooled()
    assert some.mean is not None
    # float32 activations, added in float64 there and in another order here
    np.testing.assert_allclose(some.mean, pooled[[1, 0], [7, 3]], rtol=1e-5)


def test_a_module_has_no_names_but_its_own() -> None:
    names = dir(gl)
    assert {"lesion", "next_word", "read_text", "activations", "neuron_set", "neurons"} <= set(
        names
    )
    assert not [
        name for name in names if name.isupper() or (name.startswith("_") and name[1] != "_")
    ]
