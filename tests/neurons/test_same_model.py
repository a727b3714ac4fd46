"""Key neurons know the model they were chosen in, and no other is cut or read by them unasked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import read_tensors, save_tensors
from grammar_lens.model.about import Model, fingerprint, torch_module
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.runs.store.arrays import read_evidence, save_collected
from grammar_lens.selectivity.collecting import Collected

QUIET: dict[str, Any] = {"show_progress": False}


def change(model: Model, *, by_data: bool = False) -> None:
    """Moves the weights a little, as training does."""
    with torch.no_grad():
        for weight in torch_module(model).parameters():
            (weight.data if by_data else weight).add_(1e-3)


@pytest.fixture(scope="module")
def collected(tiny: Model, bank: Treebank) -> Collected:
    return gl.collect(tiny, bank["train"], labels=("DET", "NOUN", "VERB"), **QUIET)


@pytest.fixture(scope="module")
def keys(collected: Collected) -> KeyNeurons:
    return gl.select(gl.score(collected["neuron"], "correlation"), k=3)


def test_equal_weights_have_one_fingerprint(tiny: Model, make_tiny: Callable[[], Model]):
    assert fingerprint(tiny) == fingerprint(make_tiny())


@pytest.mark.parametrize("by_data", [False, True])
def test_a_changed_model_has_another(make_tiny: Callable[[], Model], by_data: bool):
    model = make_tiny()
    before = fingerprint(model)
    change(model, by_data=by_data)
    assert fingerprint(model) != before


def test_one_bit_is_seen_after_a_change_by_torch(make_tiny: Callable[[], Model]):
    model = make_tiny()
    before = fingerprint(model)
    weight = next(torch_module(model).parameters())
    with torch.no_grad():
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
    assert fingerprint(model) != before


def test_half_precision_and_the_same_as_float32_are_one(make_tiny: Callable[[], Model]):
    model = make_tiny()
    full = fingerprint(model)
    torch_module(model).to(torch.bfloat16)
    half = fingerprint(model)
    torch_module(model).to(torch.float32)
    assert half == fingerprint(model) != full


def test_all_sums_are_made_once(make_tiny: Callable[[], Model], monkeypatch: pytest.MonkeyPatch):
    model = make_tiny()
    first = fingerprint(model)
    monkeypatch.setattr("grammar_lens.model.about._digest", lambda _: pytest.fail("summed again"))
    assert fingerprint(model) == first


def test_moments_scores_and_neurons_carry_it(tiny: Model, collected: Collected, keys: KeyNeurons):
    mine = fingerprint(tiny)
    shams = keys["NOUN"].top(1).without(keys["VERB"])
    assert collected["neuron"].origin.weights == keys.origin.weights == mine
    assert {keys["NOUN"].weights, shams.weights, gl.all_neurons(keys).weights} == {mine}


def test_it_is_stored_and_older_files_are_read(
    tiny: Model, collected: Collected, keys: KeyNeurons, tmp_path: Path
):
    path = tmp_path / "moments.safetensors"
    save_collected(path, collected)
    read = read_evidence(path)["neuron"]
    assert read.origin == collected["neuron"].origin
    again = KeyNeurons.from_frame(keys.to_frame(), gl.score(read, "correlation"), rule="stored")
    assert again["NOUN"].weights == fingerprint(tiny)
    arrays, about = read_tensors(path)
    del about["collected"]["next/neuron"]["moments"]["origin"]["weights"]
    save_tensors(path, arrays, about)
    assert read_evidence(path)["neuron"].origin == replace(read.origin, weights="")


def uses(model: Model, bank: Treebank, keys: KeyNeurons) -> dict[str, Callable[..., object]]:
    """Everything that takes a model and neurons, quick."""

    def cut(**given: Any) -> object:
        with gl.lesion(model, keys["NOUN"], **given):
            return model(torch.tensor([[0, 5, 6]]))

    train, test = bank["train"], bank["test"]
    few: dict[str, Any] = {"lexicon": train, "shams": 0, "labels": ["NOUN", "VERB"], **QUIET}
    return {
        "lesion": cut,
        "probe": lambda **g: gl.probe(model, train, test, keys, n_random=1, **QUIET, **g),
        "lesion_study": lambda **g: gl.lesion_study(model, test, keys, **few, **g),
    }


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("use", ["lesion", "probe", "lesion_study"])
def test_another_model_is_refused_unless_allowed(
    make_tiny: Callable[[], Model], bank: Treebank, keys: KeyNeurons, use: str
):
    other = make_tiny()
    change(other)
    run = uses(other, bank, keys)[use]
    with pytest.raises(GrammarLensError, match="allow_other_model=True"):
        run()
    run(allow_other_model=True)


def test_neurons_of_no_known_model_are_of_any(make_tiny: Callable[[], Model], keys: KeyNeurons):
    other = make_tiny()
    change(other)
    with gl.lesion(other, replace(keys["NOUN"], weights="")):
        pass


def test_sizes_must_match_all_the_same(tiny: Model, bank: Treebank, keys: KeyNeurons):
    wider = replace(keys, n_units=keys.n_units + 1)
    with pytest.raises(GrammarLensError, match="49 units"):
        gl.probe(tiny, bank["train"], bank["test"], wider, allow_other_model=True, **QUIET)


def test_an_origin_looks_as_before():
    origin = Origin("m", "t", "upos", "word", "neuron", "f" * 64)
    assert "ffff" not in repr(origin)
    assert origin != replace(origin, weights="")
