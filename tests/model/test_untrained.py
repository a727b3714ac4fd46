"""The untrained twin: the same architecture and tokenizer, other weights, drawn by a seed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, describe, fingerprint, model_name, n_parameters
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


def test_a_name_stands_for_the_twin(reference: Model, tmp_path: Path) -> None:
    """The same weights as the twin's; a folder needs none of its own."""
    named = load_model("untrained:reference-9m")
    assert model_name(named) == "untrained:reference-9m"
    twin = untrained_twin(reference).original_model
    for ours, theirs in zip(named.original_model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    bare = tmp_path / "bare"
    reference.original_model.config.save_pretrained(bare)
    reference.tokenizer.save_pretrained(bare)
    of_a_folder = load_model(f"untrained:{bare}", dtype="bfloat16")
    assert model_name(of_a_folder) == "untrained:bare"
    assert next(of_a_folder.original_model.parameters()).dtype == torch.bfloat16
    with pytest.raises(GrammarLensError, match="device_map has no use"):
        load_model("untrained:reference-9m", device_map="auto")
    with pytest.raises(GrammarLensError, match=r"config\.json"):
        load_model(f"untrained:{tmp_path}")


def test_twins_drawn_while_others_load_are_the_same(reference: Model) -> None:
    """A load exchanges methods of transformers' classes and would leave a twin without tied weights."""

    def made(i: int) -> str:
        return fingerprint(untrained_twin(reference) if i % 2 else load_model())

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(made, range(16)))
    assert set(found[1::2]) == {fingerprint(untrained_twin(reference))}
