"""Shared parts of the tests of lesions: sets of units, batteries, and lesions made by hand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rounding import float32_error
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import grammar_lens.lesions.battery as lesion_battery
from grammar_lens.corpus.corpus import Corpus, fit_lexicon
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.directions import Directions
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.model.about import Model, hook_name
from grammar_lens.model.fast_path import FastPath
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.forward import hooked
from grammar_lens.neurons.neurons import Neurons

ARRAYS = ("nll", "tag_loss", "lexical_loss", "tag_probability")
WAYS = ("fast", "hooked")
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "attn_implementation": "eager",
}
"""A tiny model with grouped-query attention; every architecture takes these."""


def llama(vocabulary: int, shake: Callable[[torch.nn.Module], None], **changed: Any) -> Any:
    """A random Llama of three layers, so that there is one between the first and the last."""
    hf = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **(SIZE | changed))).eval()
    shake(hf)
    return hf


def units(
    *addresses: tuple[int, int], site: str = "neuron", mean: Sequence[float] | None = None
) -> Neurons:
    rows = np.array(addresses, np.int64).reshape(-1, 2)
    means = np.linspace(-0.5, 0.7, len(rows)) if mean is None else np.array(mean)
    return Neurons("some", site, rows[:, 0], rows[:, 1], np.ones(len(rows)), means)


def n_hooks(model: Model) -> int:
    """Hooks of every kind anywhere in the model."""
    ours = sum(len(point.fwd_hooks) for point in model.hook_dict.values())
    modules = list(model.original_model.modules())
    return ours + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def draw(rng: np.random.Generator, n: int, layers: Sequence[int], site: str = "neuron") -> Neurons:
    """Random units of some layers with random means."""
    width = 48 if site == "neuron" else 32
    rows = [(int(rng.choice(layers)), int(i)) for i in rng.permutation(width)[:n]]
    return units(*rows, site=site, mean=rng.normal(size=n).tolist())


def conditions() -> list[Condition]:
    """Lesions in layers 0 and 1, shams of two labels, one of them empty."""
    rng = np.random.default_rng(1)
    return [
        Condition("NOUN", 0, draw(rng, 6, [0, 1])),
        Condition("VERB", 0, draw(rng, 3, [0])),
        Condition("NOUN", 1, draw(rng, 6, [1])),
        Condition("VERB", 1, units()),
        Condition("ADJ", 0, draw(rng, 9, [0, 1])),
    ]


def in_ablation(chosen: Sequence[Condition], ablation: Ablation) -> list[Condition]:
    return [replace(c, ablation=ablation) for c in chosen]


def battery(model: Model, corpus: Corpus, chosen: Sequence[Condition], **options: Any) -> Outcomes:
    return run_battery(
        model,
        corpus.alignment,
        corpus.read("next"),
        fit_lexicon(model, corpus),
        chosen,
        **options,
    )


def go(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes batteries run on the fast path, or through the bridge's hooks."""

    monkeypatch.setattr(lesion_battery, "fast_path", compared if way == "fast" else lambda _: None)


def compared(model: Model) -> FastPath:
    """The model's fast path."""
    found = fast_path(model)
    assert found is not None, "there is no fast path, so it is not tested"
    return found


CLOSE = float32_error(5.0, 19 * 48)
"""Nats: logits near 5, from three layers of 48 neurons, in products of another shape."""


def assert_same_outcomes(got: Outcomes, want: Outcomes, tolerance: float = CLOSE) -> None:
    for name in ("word", "label", "sentence", "top_label", "shared"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=tolerance)
    assert got.seen_mass == pytest.approx(want.seen_mass, abs=tolerance)


def by_hand(
    model: Model,
    corpus: Corpus,
    condition: Condition,
    donors: Donors | None = None,
    assigned: np.ndarray | None = None,
) -> np.ndarray:
    """NLL of every scored word: one row at a time, one word at a time if cut only there.

    `assigned` numbers the donor of every token of the corpus.
    """
    codes, found = corpus.read("next"), corpus.alignment
    begin = np.cumsum([0, *map(len, found.token_ids)])
    first = 1 if found.has_bos else 0
    nll = np.full(len(codes), np.nan)
    for row, ids in enumerate(found.token_ids):
        words = np.flatnonzero((found.row == row) & (codes >= 0))
        places = found.time("next")[words]
        donor = None if assigned is None else assigned[begin[row] : begin[row + 1]]
        if condition.ablation.where == "every":
            runs = [(words, places, np.arange(first, len(ids)))]
        else:
            runs = [(words[[i]], places[[i]], places[[i]]) for i in range(len(words))]
        for chosen, at, times in runs:
            end = int(times.max()) + 1
            with by_hand_at(model, condition, times, donors, donor), torch.no_grad():
                logits = model(torch.from_numpy(ids)[None, :end])[0].double().log_softmax(1)
            nll[chosen] = -logits[at, found.first_token[chosen]].numpy()
    return nll[codes >= 0]


@contextmanager
def by_hand_at(
    model: Model,
    condition: Condition,
    times: np.ndarray,
    donors: Donors | None,
    donor: Sequence[int] | np.ndarray | None,
) -> Iterator[None]:
    """One row's activations changed at some times, unit by unit, in NumPy."""
    chosen, ablation = condition.neurons, condition.ablation
    site = chosen.site

    def hook(layer: int) -> Callable[..., Tensor]:
        def change(x: Tensor, **_: object) -> Tensor:
            out = x.double().numpy().copy()
            for time in times:
                row = out[0, time]
                of = None if donor is None else int(donor[time])
                out[0, time] = _moved(row, chosen, layer, ablation, donors, of)
            return torch.from_numpy(out).to(x.dtype)

        return change

    layers = [chosen.layer] if isinstance(chosen, Directions) else np.unique(chosen.layer).tolist()
    with hooked(model, [(hook_name(model, site, layer), hook(layer)) for layer in layers]):
        yield


def _moved(
    row: np.ndarray,
    chosen: Neurons | Directions,
    layer: int,
    ablation: Ablation,
    donors: Donors | None,
    donor: int | None,
) -> np.ndarray:
    """(1 - dose) a + dose v for the units, or for the part of the vector within the subspace."""
    target = np.zeros(len(row))
    if ablation.value.startswith("resample"):
        assert donors is not None
        known = donors.addresses[chosen.site, layer]
        target[known] = donors.values[chosen.site, layer][donor]
    if isinstance(chosen, Directions):
        if ablation.value == "mean":
            assert chosen.mean is not None
            target = chosen.mean
        projector = chosen.basis.T @ chosen.basis
        return row + ablation.dose * projector @ (target - row)
    index = chosen.index[chosen.layer == layer]
    if ablation.value == "mean":
        assert chosen.mean is not None
        target[index] = chosen.mean[chosen.layer == layer]
    out = row.copy()
    out[index] = (1 - ablation.dose) * row[index] + ablation.dose * target[index]
    return out
