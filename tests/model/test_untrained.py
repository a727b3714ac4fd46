"""The untrained twin: the same architecture and tokenizer, other weights, drawn by a seed."""

from collections.abc import Callable

import pytest
import torch

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, describe, fingerprint, n_parameters
from grammar_lens.model.loading import load_model
from grammar_lens.model.untrained import untrained_twin


def test_a_twin_has_the_same_shape_and_other_weights(reference: Model) -> None:
    state, before = torch.get_rng_state(), fingerprint(reference)
    twin = untrained_twin(reference)
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(reference) == before != fingerprint(twin)
    ours, theirs = describe(reference), describe(twin)
    assert theirs.pop("name") == f"{ours.pop('name')}, untrained"
    assert ours == theirs
    assert n_parameters(twin) == n_parameters(reference)
    assert twin.tokenizer.get_vocab() == reference.tokenizer.get_vocab()


def test_the_weights_are_the_seeds(reference: Model) -> None:
    first, again, other = (untrained_twin(reference, seed) for seed in (1, 1, 2))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_weights_have_the_spread_of_the_initialiser(reference: Model) -> None:
    twin = untrained_twin(reference).original_model
    weight = twin.model.layers[0].mlp.up_proj.weight
    assert float(weight.std()) == pytest.approx(twin.config.initializer_range, rel=0.02)


def test_the_dtype_is_the_models(tiny_hf: Callable, tiny_tokenizer: object) -> None:
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype="bfloat16")
    dtypes = {p.dtype for p in untrained_twin(model).original_model.parameters()}
    assert dtypes == {torch.bfloat16}


def test_a_model_on_several_devices_is_refused(tiny_hf: Callable, tiny_tokenizer: object) -> None:
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer)
    model.original_model.model.norm.to("meta")
    with pytest.raises(GrammarLensError, match="spread over cpu, meta"):
        untrained_twin(model)


def test_a_model_without_a_config_is_refused() -> None:
    class Hooked:
        class cfg:
            model_name = "some/model"

    with pytest.raises(GrammarLensError, match="model is a HookedTransformer"):
        untrained_twin(Hooked())
