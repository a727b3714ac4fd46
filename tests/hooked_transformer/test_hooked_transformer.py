"""A TransformerLens 3 HookedTransformer gives the numbers that the bridge gives.

`make test-hooked-transformer` runs this with TransformerLens 3.9, the last version that has both.
The two compute attention and norms in another order: activations differ by about 1e-5 in float32,
and everything below is compared to 1e-4.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch

from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import fit_lexicon, prepare
from grammar_lens.defaults import SITES
from grammar_lens.dissociation.study import lesion_study
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.outcomes import Condition, Outcomes
from grammar_lens.model import about, forward, weights
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.probing.probes import probe
from grammar_lens.selectivity.collecting import Collected
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.scoring import score

pytestmark = pytest.mark.skipif(
    int(version("transformer-lens").split(".")[0]) >= 4,
    reason="needs TransformerLens 3: make test-hooked-transformer",
)
QUIET: dict[str, Any] = {"show_progress": False}
ATOL = 1e-4


def n_hooks(model: Model) -> int:
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


def test_it_is_the_class_meant(ours: Model, theirs: Model):
    assert type(ours).__name__ == "HookedTransformer"
    assert not hasattr(ours, "original_model")
    assert type(theirs).__name__ == "TransformerBridge"
    assert load_model(ours) is ours
    assert not any(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize(
    "ask",
    [
        about.model_name,
        about.context_length,
        about.vocabulary_size,
        about.device_of,
        about.has_gate,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_known_of_the_model(ours: Model, theirs: Model, ask: Callable[[Model], Any]):
    assert ask(ours) == ask(theirs)


def test_sites(ours: Model, theirs: Model):
    for site in SITES:
        assert about.hook_name(ours, site, 7) == about.hook_name(theirs, site, 7)
        assert about.site_width(ours, site) == about.site_width(theirs, site)
    np.testing.assert_allclose(weights.output_norms(ours), weights.output_norms(theirs), rtol=1e-6)


@pytest.mark.parametrize("position", ["word", "next"])
@pytest.mark.parametrize("site", SITES)
def test_collect(collected: tuple[Collected, Collected], site: str, position: str):
    one, other = (c.at(position)[site] for c in collected)
    np.testing.assert_array_equal(one.count, other.count)
    np.testing.assert_allclose(one.mean, other.mean, atol=ATOL)
    np.testing.assert_allclose(one.mean_abs, other.mean_abs, atol=ATOL)
    mine, want = (np.sqrt(m.m2 / m.count[:, None, None]) for m in (one, other))
    np.testing.assert_allclose(mine, want, atol=ATOL)
    # a unit at the very edge of firing may fall on either side
    assert (one.fired != other.fired).mean() < 1e-3


@pytest.mark.parametrize("method", [n for n, m in SCORES.items() if m.needs == "moments"])
def test_score(collected: tuple[Collected, Collected], method: str):
    for position in ("word", "next"):
        one, other = (score(c.at(position)["neuron"], method).values for c in collected)
        # correlations to 1e-4 absolute; t and d have no bound, so relative to their size
        np.testing.assert_allclose(
            one, other, atol=ATOL, rtol=0 if method == "correlation" else ATOL
        )


def test_padded_batches_read_the_same(ours: Model, theirs: Model, bank: Treebank):
    corpus = prepare(ours, bank)
    found = corpus.alignment
    wanted = found.readable("word")
    addresses = np.array([[layer, unit] for layer in range(8) for unit in range(0, 896, 7)])
    read = []
    for model in (ours, theirs):
        reader = FeatureReader(found.n_words, addresses)
        tap = Tap("neuron", "word", wanted, np.arange(found.n_words), reader)
        stream(model, found, token_batches(found, 400), [tap])
        read.append(reader.values)
    np.testing.assert_allclose(read[0], read[1], atol=ATOL)


def test_padding_side_of_the_tokenizer_does_not_matter(ours: Model):
    """A HookedTransformer would guess a mask from it."""
    ids = torch.tensor([[0, 50, 60, 70], [1, 50, 60, 70]])  # a text that begins with the pad token
    want = forward.next_token_logits(ours, ids, torch.arange(8))
    try:
        ours.tokenizer.padding_side = "left"
        got = forward.next_token_logits(ours, ids, torch.arange(8))
    finally:
        ours.tokenizer.padding_side = "right"
    assert torch.equal(got, want)


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("dose", [0.5, 1.0, 2.0])
def test_lesion(ours: Model, theirs: Model, keys: KeyNeurons, value: str, dose: float):
    ids = ours.tokenizer("The old man never saw the sea again.", return_tensors="pt").input_ids
    where = torch.arange(ids.shape[1])
    before, hooks = forward.next_token_logits(ours, ids, where), n_hooks(ours)
    cut = []
    for model in (ours, theirs):
        with lesion(model, keys["NOUN"], value=value, dose=dose):
            cut.append(forward.next_token_logits(model, ids, where))
    assert (cut[0] - before).abs().max() > 0.05, "the lesion matters"
    np.testing.assert_allclose(cut[0].numpy(), cut[1].numpy(), atol=ATOL)
    assert torch.equal(forward.next_token_logits(ours, ids, where), before)
    assert n_hooks(ours) == hooks


def test_lesion_of_the_residual_stream(ours: Model, theirs: Model):
    ids = torch.tensor([[0, 50, 60, 70, 80]])
    where = torch.arange(5)

    def cut(model: Model, site: str) -> torch.Tensor:
        rows = np.array([2, 2])
        units = Neurons("some", site, rows, np.array([3, 200]), np.ones(2), np.array([2.0, -2.0]))
        with lesion(model, units):
            return forward.next_token_logits(model, ids, where)

    intact = forward.next_token_logits(theirs, ids, where)
    for site in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        want = cut(theirs, site)
        assert (want - intact).abs().max() > 0.05
        np.testing.assert_allclose(cut(ours, site).numpy(), want.numpy(), atol=ATOL)
    # here the edit reaches the residual stream, as it does not in a bridge
    assert (cut(ours, "resid_mid") - intact).abs().max() > 0.05


def test_generation_under_a_lesion(ours: Model, theirs: Model, keys: KeyNeurons):
    ids = ours.tokenizer("The old man", return_tensors="pt").input_ids
    options: dict[str, Any] = {
        "max_new_tokens": 8,
        "do_sample": False,
        "verbose": False,
        "return_type": "tokens",
    }
    written = []
    for model in (ours, theirs):
        with lesion(model, keys["NOUN"], value="zero", dose=2.0):
            written.append(model.generate(ids, **options)[0].tolist())
    assert written[0] == written[1]


def test_battery(ours: Model, theirs: Model, bank: Treebank, keys: KeyNeurons):
    chosen = [Condition(tag, 0, keys[tag]) for tag in ("NOUN", "VERB")]
    chosen.append(Condition("NOUN", 1, keys["NOUN"].top(0)))

    def run(model: Model) -> Outcomes:
        train = prepare(model, bank["train"])
        corpus = prepare(model, bank["test"], labels=train.labels)
        return run_battery(
            model,
            corpus.alignment,
            corpus.read("next"),
            fit_lexicon(model, train),
            chosen,
        )

    one, other = run(ours), run(theirs)
    np.testing.assert_array_equal(one.word, other.word)
    for name in ("nll", "tag_loss", "lexical_loss", "tag_probability"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=ATOL)
    assert one.identity_error() < 1e-10
    np.testing.assert_array_equal(one.nll[3], one.nll[0])


def test_probe_and_lesion_study(ours: Model, theirs: Model, bank: Treebank, keys: KeyNeurons):
    probes = [
        probe(model, bank["train"], bank["test"], keys, n_random=1, **QUIET)
        for model in (ours, theirs)
    ]
    # one word of about fifty may fall to the other side of a border
    assert abs(probes[0].accuracy - probes[1].accuracy) <= 1 / probes[0].n_fresh_words + 1e-9
    options: dict[str, Any] = {
        "lexicon": bank["train"],
        "shams": 2,
        "labels": ("NOUN", "VERB", "PRON"),
        **QUIET,
    }
    one, other = (lesion_study(model, bank["test"], keys, **options) for model in (ours, theirs))
    np.testing.assert_allclose(one.matrix, other.matrix, atol=ATOL)
    np.testing.assert_allclose(one.sham, other.sham, atol=ATOL)
