"""A battery gives every lesion's losses, whichever way it takes and however it is cut up."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lesion_bench import (
    ARRAYS,
    CLOSE,
    SIZE,
    WAYS,
    assert_same_outcomes,
    battery,
    by_hand,
    compared,
    conditions,
    draw,
    go,
    in_ablation,
    llama,
    n_hooks,
    units,
)
from tokenizers import Tokenizer, processors
from torch import Tensor, nn
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
)
from typed import present

import grammar_lens.lesions.battery as lesion_battery
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare
from grammar_lens.corpus.lexicon import DeviceLexicon, split_losses
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.donors import Donors, record_donors
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.model.about import Model, device_of
from grammar_lens.model.forward import next_token_logits
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons, all_neurons
from grammar_lens.passes.distributed import Shard


@pytest.fixture(scope="session")
def deep(tiny_tokenizer: Any, shaken: Callable[..., None]) -> Model:
    """Three layers. Do not change its weights."""
    return load_model(llama(len(tiny_tokenizer), shaken), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="session")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, Treebank("eight", bank.sentences[10:]))


@pytest.fixture(scope="session")
def few(deep: Model, three: Treebank) -> Corpus:
    return prepare(deep, three, minimum=1)


@pytest.fixture(scope="session")
def three(bank: Treebank) -> Treebank:
    """Three sentences, for comparisons with one forward pass per word."""
    return Treebank("three", bank.sentences[13:16])


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Batteries run once on the fast path, once through the bridge's hooks."""
    go(request.param, monkeypatch)
    return request.param


def everything() -> Neurons:
    layer, index = np.divmod(np.arange(3 * 48), 48)
    return replace(units(*zip(layer.tolist(), index.tolist(), strict=True)), name="all")


def plane(seed: int, layer: int, site: str) -> Directions:
    rng = np.random.default_rng(seed)
    vectors, mean = rng.normal(size=(2, 32)), rng.normal(size=32)
    return directions("plane", vectors, layer=layer, site=site, mean=mean)


def kinds_of_lesion() -> dict[str, Neurons | Directions]:
    rng = np.random.default_rng(8)
    whole = KeyNeurons(
        {}, "by hand", "all", 48, 3, None, Origin("m", "b", "upos", "next", "neuron")
    )
    layer_1 = replace(all_neurons(whole, [1]), mean=rng.normal(size=48))
    return {
        "first layer": draw(rng, 4, [0]),
        "last layer": draw(rng, 4, [2]),
        "middle and last": draw(rng, 8, [1, 2]),
        "all layers": draw(rng, 12, [0, 1, 2]),
        "a whole layer": layer_1,
        "everything": replace(everything(), mean=rng.normal(size=144)),
        **{site: draw(rng, 4, [1], site) for site in ("resid_pre", "resid_post")},
        **{f"{site} twice": draw(rng, 6, [0, 2], site) for site in ("attn_out", "mlp_out")},
        "resid_pre twice": draw(rng, 6, [0, 2], "resid_pre"),
        "resid_post of the last": draw(rng, 4, [2], "resid_post"),
        "plane before": plane(1, 1, "resid_pre"),
        "plane after": plane(2, 0, "resid_post"),
        "plane after the last": plane(3, 2, "resid_post"),
        "plane of attention": plane(4, 1, "attn_out"),
    }


KINDS = kinds_of_lesion()
MANNERS = [
    Ablation("zero", 1.0),
    Ablation("mean", 1.0),
    Ablation("mean", 0.5),
    Ablation("zero", -1.0),
    Ablation("mean", 2.0),
    Ablation("resample", 1.0),
    Ablation("resample_within", 0.5),
]


def donors_of(
    model: Model, corpus: Corpus, sets: Sequence[Neurons | Directions], seed: int = 2
) -> Donors:
    classes = corpus.read("next")
    return record_donors(
        model, corpus.alignment, classes, sets, position="next", seed=seed, n_words=30, per_label=3
    )


def assigned(corpus: Corpus, donors: Donors, value: str, seed: int = 0) -> np.ndarray:
    return lesion_battery._assigned(corpus.alignment, corpus.read("next"), donors, value, seed)


# Every kind of lesion, both ways ------------------------------------------------------------


@pytest.mark.parametrize("ablation", MANNERS, ids=str)
def test_every_kind_of_lesion_in_one_battery(
    deep: Model, few: Corpus, ablation: Ablation, monkeypatch: pytest.MonkeyPatch
):
    """Against unit by unit in NumPy, one sentence at a time; all stacked together, both ways."""
    chosen = [Condition(name, 0, what, ablation) for name, what in KINDS.items()]
    donors = donors_of(deep, few, list(KINDS.values()))
    places = assigned(few, donors, ablation.value) if "resample" in ablation.value else None
    want = [by_hand(deep, few, c, donors, places) for c in chosen]
    got = {}
    for way in WAYS:
        go(way, monkeypatch)
        hooks = n_hooks(deep)
        got[way] = battery(deep, few, chosen, donors=donors)
        assert n_hooks(deep) == hooks
        for row, condition in enumerate(chosen, 1):
            # doses beyond 1 make logits, and so their rounding, larger
            np.testing.assert_allclose(
                got[way].nll[row], want[row - 1], atol=CLOSE, rtol=0, err_msg=condition.label
            )
        assert (np.abs(got[way].nll[1:] - got[way].nll[0]).max(1) > 1e-3).all(), "lesions matter"
        assert got[way].identity_error() < 1e-6
    assert_same_outcomes(got["fast"], got["hooked"], CLOSE)


@pytest.mark.parametrize("ablation", [MANNERS[i] for i in (1, 3, 5)], ids=str)
def test_lesions_at_the_scored_token_only(deep: Model, few: Corpus, ablation: Ablation):
    """One forward pass of every word's own prefix, changed at its last token."""
    ablation = replace(ablation, where="scored")
    names = ("first layer", "last layer", "all layers", "resid_pre", "resid_post", "plane after")
    names += ("attn_out twice", "mlp_out twice", "resid_post of the last", "resid_pre twice")
    chosen = [Condition(name, 0, KINDS[name], ablation) for name in names]
    donors = donors_of(deep, few, [c.neurons for c in chosen])
    places = assigned(few, donors, ablation.value) if "resample" in ablation.value else None
    hooks = n_hooks(deep)
    got = battery(deep, few, chosen, donors=donors)
    assert n_hooks(deep) == hooks
    other = battery(deep, few, chosen, donors=donors, token_budget=100)
    assert_same_outcomes(other, got, CLOSE)
    assert got.identity_error() < 1e-6
    for row, condition in enumerate(chosen, 1):
        want = by_hand(deep, few, condition, donors, places)
        np.testing.assert_allclose(got.nll[row], want, atol=CLOSE, rtol=0, err_msg=condition.label)
    everywhere = battery(
        deep, few, in_ablation(chosen, replace(ablation, where="every")), donors=donors
    )
    # where nothing reads the lesioned tokens any more, the two are one
    for row, condition in enumerate(chosen, 1):
        gap = np.abs(got.nll[row] - everywhere.nll[row]).max()
        is_last = condition.label in ("last layer", "resid_post of the last")
        assert (gap < CLOSE) == is_last, condition.label


def test_manners_are_mixed_in_one_battery(
    deep: Model, few: Corpus, monkeypatch: pytest.MonkeyPatch
):
    """Every lesion is the same alone as among others, in whatever order."""
    rng = np.random.default_rng(3)
    kinds = [KINDS[name] for name in [*list(KINDS)[:8], "plane after"]]
    chosen = [
        Condition("NOUN", i, kinds[rng.integers(len(kinds))], MANNERS[rng.integers(len(MANNERS))])
        for i in range(24)
    ]
    chosen = [
        replace(c, ablation=replace(c.ablation, where="scored")) if i % 3 == 0 else c
        for i, c in enumerate(chosen)
    ]
    donors = donors_of(deep, few, kinds)
    got = battery(deep, few, chosen, donors=donors)
    order = rng.permutation(24)
    back = battery(deep, few, [chosen[i] for i in order], donors=donors, token_budget=300)
    np.testing.assert_allclose(back.nll[1:], got.nll[1:][order], atol=CLOSE, rtol=0)
    alone = [battery(deep, few, [c], donors=donors).nll[1] for c in chosen[::4]]
    np.testing.assert_allclose(got.nll[1::4], alone, atol=CLOSE, rtol=0)
    assert got.identity_error() < 1e-6
    every = [c for c in chosen if c.ablation.where == "every"]
    go("hooked", monkeypatch)
    rows = [0, *(i + 1 for i, c in enumerate(chosen) if c.ablation.where == "every")]
    hooked = battery(deep, few, every, donors=donors)
    np.testing.assert_allclose(hooked.nll, got.nll[rows], atol=CLOSE, rtol=0)


def test_lesions_at_the_scored_token_need_single_layers(
    deep: Model, few: Corpus, monkeypatch: pytest.MonkeyPatch
):
    chosen = [Condition("NOUN", 0, KINDS["first layer"], Ablation("zero", 1.0, "scored"))]
    told: list[int] = []
    message = r"at the scored token only need the layers of .* one by one.*: use every token"
    go("hooked", monkeypatch)
    with pytest.raises(GrammarLensError, match=message):
        battery(deep, few, chosen, progress=told.append)
    go("fast", monkeypatch)
    monkeypatch.setattr("grammar_lens.lesions.passes.can_continue", lambda _: False)
    with pytest.raises(GrammarLensError, match=message):
        battery(deep, few, chosen, progress=told.append)
    assert not told, "before any work"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(
    tiny_tokenizer: Any, shaken: Callable[..., None], three: Treebank, dtype: torch.dtype
):
    """Norms and attention weights are float32 in a float64 model too, so it is not more exact."""
    hf = llama(len(tiny_tokenizer), shaken).to(dtype)
    model = load_model(hf, tokenizer=tiny_tokenizer, dtype=dtype)
    few = prepare(model, three, minimum=1)
    chosen = [Condition(name, 0, KINDS[name]) for name in ("first layer", "middle and last")]
    chosen += [Condition("scored", 0, KINDS["all layers"], Ablation("mean", 1.0, "scored"))]
    got = battery(model, few, chosen)
    for row, condition in enumerate(chosen, 1):
        want = by_hand(model, few, condition)
        error = np.abs(got.nll[row] - want)
        effect = np.abs(got.nll[row] - got.nll[0]).mean()
        if dtype == torch.float64:
            assert error.max() < CLOSE
        else:
            assert error.mean() < 0.2 * effect
    assert got.identity_error() < 1e-6


def test_a_window_of_attention_shorter_than_the_sentences(
    tiny_tokenizer: Any, shaken: Callable[..., None], three: Treebank
):
    hf = MistralForCausalLM(
        MistralConfig(vocab_size=len(tiny_tokenizer), sliding_window=4, **SIZE)
    ).eval()
    shaken(hf)
    model = load_model(hf, tokenizer=tiny_tokenizer)
    few = prepare(model, three, minimum=1)
    chosen = [
        Condition(where, i, KINDS[name], Ablation("mean", 1.0, where))
        for where in ("every", "scored")
        for i, name in enumerate(("first layer", "all layers", "plane after"))
    ]
    got = battery(model, few, chosen)
    for row, condition in enumerate(chosen, 1):
        want = by_hand(model, few, condition)
        np.testing.assert_allclose(got.nll[row], want, atol=CLOSE, rtol=0)


def test_an_architecture_whose_bare_layers_are_not_taken(
    tiny_tokenizer: Any, shaken: Callable[..., None], three: Treebank
):
    """Olmo 2 has a norm between the MLP and the residual stream."""
    hf = Olmo2ForCausalLM(Olmo2Config(vocab_size=len(tiny_tokenizer), **SIZE)).eval()
    shaken(hf)
    model = load_model(hf, tokenizer=tiny_tokenizer)
    few = prepare(model, three, minimum=1)
    chosen = [Condition(name, 0, KINDS[name]) for name in ("first layer", "all layers")]
    got = battery(model, few, chosen)
    for row, condition in enumerate(chosen, 1):
        want = by_hand(model, few, condition)
        np.testing.assert_allclose(got.nll[row], want, atol=CLOSE, rtol=0)


def test_a_battery_within_a_lesion_is_of_the_lesioned_model(deep: Model, few: Corpus):
    """The fast path would bypass the hooks of a lesion that is open."""
    outer, inner = KINDS["first layer"], KINDS["last layer"]
    assert isinstance(outer, Neurons)
    assert isinstance(inner, Neurons)
    with lesion(deep, outer):
        got = battery(deep, few, [Condition("NOUN", 0, inner)])
    layer, index = (
        np.concatenate([a, b]) for a, b in ((outer.layer, inner.layer), (outer.index, inner.index))
    )
    mean = np.concatenate([present(outer.mean), present(inner.mean)])
    both = Neurons("both", "neuron", layer, index, np.ones(8), mean)
    want = battery(deep, few, [Condition("NOUN", 0, outer), Condition("VERB", 0, both)])
    np.testing.assert_allclose(got.nll, want.nll[1:], atol=CLOSE, rtol=0)
    assert np.abs(got.nll[0] - want.nll[0]).max() > 0.01
    small = units((1, 7), mean=[3.0])
    with lesion(deep, small, dose=1e-3):
        got = battery(deep, few, [])
    want = battery(deep, few, [Condition("NOUN", 0, small, Ablation("mean", 1e-3))])
    change = want.nll[1] - want.nll[0]
    assert 4 * CLOSE < np.abs(change).max() < 1e-2, "too little for a comparison of a few tokens"
    np.testing.assert_allclose(got.nll[0] - want.nll[0], change, atol=CLOSE, rtol=0)


def test_models_without_bos(
    tiny_tokenizer: Any, shaken: Callable[..., None], three: Treebank, way: str
):
    """The first token is then a word's, and is lesioned like any other."""
    raw = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    raw.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>")
    model = load_model(llama(len(tokenizer), shaken), tokenizer=tokenizer)
    few = prepare(model, three, minimum=1)
    assert not few.alignment.has_bos
    chosen = [
        Condition(name, 0, KINDS[name]) for name in ("first layer", "all layers", "plane before")
    ]
    if way == "fast":
        chosen += [replace(c, ablation=Ablation("zero", 1.0, "scored")) for c in chosen]
    got = battery(model, few, chosen)
    for row, condition in enumerate(chosen, 1):
        want = by_hand(model, few, condition)
        np.testing.assert_allclose(got.nll[row], want, atol=CLOSE, rtol=0)


# Losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dose", [1.0, -1.0])
def test_stacked_rows_equal_lesions_one_by_one(tiny: Model, corpus: Corpus, way: str, dose: float):
    """One sentence and one lesion at a time, through the context manager; all that is reported."""
    chosen = in_ablation(conditions(), Ablation("mean", dose))
    got = battery(tiny, corpus, chosen)
    assert got.conditions == tuple(chosen)
    lexicon = fit_lexicon(tiny, corpus)
    tables = DeviceLexicon.of(lexicon, 400, device_of(tiny))
    codes, found = corpus.read("next"), corpus.alignment
    assert got.word.tolist() == np.flatnonzero(codes >= 0).tolist()
    seen = np.zeros(len(got.word))
    for row, condition in enumerate([Condition("", 0, units()), *chosen]):
        with lesion(tiny, condition.neurons, value="mean", dose=dose):
            for sentence, ids in enumerate(found.token_ids):
                words = np.flatnonzero((found.sentence == sentence) & (codes >= 0))
                times = torch.from_numpy(found.time("next")[words])
                losses = split_losses(
                    next_token_logits(tiny, torch.from_numpy(ids)[None], times),
                    torch.from_numpy(found.first_token[words]),
                    torch.from_numpy(codes[words]),
                    tables,
                )
                place = np.searchsorted(got.word, words)
                for name in ("nll", "tag_loss", "lexical_loss"):
                    np.testing.assert_allclose(
                        getattr(got, name)[row, place], getattr(losses, name).numpy(), atol=CLOSE
                    )
                chances = losses.tag_probability.numpy()
                np.testing.assert_array_equal(got.top_label[row, place], chances.argmax(1))
                if row in got.probed:
                    probed = got.tag_probability[got.probed.index(row), place]
                    np.testing.assert_allclose(probed, chances, atol=CLOSE)
                if row == 0:
                    seen[place] = losses.seen_mass.numpy()
    assert got.probed == (0, 1, 2, 5)
    assert got.seen_mass == pytest.approx(seen.mean(), abs=CLOSE)
    assert (np.abs(got.nll[1:] - got.nll[:1]).max(1)[[0, 1, 2, 4]] > 0.01).all(), "lesions matter"


def test_conditions_that_change_nothing_change_nothing_at_all(
    tiny: Model, corpus: Corpus, way: str
):
    outcomes = battery(tiny, corpus, conditions())
    for value in ("zero", "mean", "resample"):  # without donors: none are needed
        empty = battery(tiny, corpus, in_ablation(conditions(), Ablation(value, 0.0)))
        for result, rows in ((outcomes, [4]), (empty, [1, 2, 3, 4, 5])):
            for name in ("nll", "tag_loss", "lexical_loss", "top_label"):
                for row in rows:
                    np.testing.assert_array_equal(
                        getattr(result, name)[row], getattr(result, name)[0]
                    )
        np.testing.assert_array_equal(empty.tag_probability[1:], empty.tag_probability[[0, 0, 0]])


def test_neurons_without_outgoing_weight_cost_nothing(
    tiny_tokenizer: Any, shaken: Callable[..., None], three: Treebank, way: str
):
    hf = llama(len(tiny_tokenizer), shaken)
    rng = np.random.default_rng(4)
    dead = draw(rng, 12, [0, 1, 2])
    with torch.no_grad():
        for layer, unit in dead:
            hf.model.layers[layer].mlp.down_proj.weight[:, unit] = 0
    model = load_model(hf, tokenizer=tiny_tokenizer)
    few = prepare(model, three, minimum=1)
    where = ["every", "scored"] if way == "fast" else ["every"]
    ablations = [replace(m, where=w) for m in MANNERS for w in where]
    chosen = [Condition("NOUN", i, dead, ablation) for i, ablation in enumerate(ablations)]
    chosen += [Condition("VERB", 0, units((0, 4), (2, 5), mean=[3.0, 3.0]))]
    got = battery(model, few, chosen, donors=donors_of(model, few, [dead]))
    # stacked rows are products of another shape
    np.testing.assert_allclose(got.nll[1:-1], np.tile(got.nll[0], (len(ablations), 1)), atol=CLOSE)
    assert np.abs(got.nll[-1] - got.nll[0]).max() > 0.01, "and its twin with weight does"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_change_of_nll_is_the_sum_of_its_parts(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, bank: Treebank, dtype: torch.dtype
):
    """Exact whatever the model's precision, because the split itself is made in float64."""
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype=dtype)
    corpus = prepare(model, bank)
    outcomes = battery(model, corpus, conditions())
    assert outcomes.identity_error() < 1e-10
    gold = corpus.alignment.first_token[outcomes.word]
    share = np.log(fit_lexicon(model, corpus).probability[gold, outcomes.label])
    whole = outcomes.tag_loss + outcomes.lexical_loss + share
    np.testing.assert_allclose(outcomes.nll, whole, atol=1e-10, rtol=0)
    change = outcomes.nll - outcomes.nll[:1]
    parts = outcomes.tag_loss + outcomes.lexical_loss
    np.testing.assert_allclose(change, parts - parts[:1], atol=1e-10, rtol=0)
    assert np.abs(change[1]).max() > 0.01


# What a battery leaves out ------------------------------------------------------------------


def test_shams_are_scored_at_the_shared_words_only(tiny: Model, corpus: Corpus, way: str):
    codes = corpus.read("next")
    shared = np.zeros(len(codes), bool)
    shared[np.flatnonzero(codes >= 0)[::3]] = True
    shared[corpus.alignment.sentence == 4] = False  # a sentence without any
    chosen = [
        *conditions(),
        Condition("rest", 0, draw(np.random.default_rng(5), 3, [1]), kind="rest"),
    ]
    whole, part = (battery(tiny, corpus, chosen, shared=s) for s in (None, shared))
    assert whole.shared.all()
    np.testing.assert_array_equal(part.shared, shared[part.word])
    assert part.probed == whole.probed == (0, 1, 2, 5), "neither shams nor rests"
    for name in ("nll", "tag_loss", "lexical_loss"):
        got, want = getattr(part, name), getattr(whole, name)
        for row in range(7):
            there = np.ones(len(part.word), bool) if row in part.probed else part.shared
            np.testing.assert_array_equal(np.isfinite(got[row]), there)
            np.testing.assert_allclose(got[row, there], want[row, there], atol=CLOSE)
    np.testing.assert_allclose(part.tag_probability, whole.tag_probability, atol=CLOSE)
    assert part.identity_error() < 1e-10
    nowhere = battery(tiny, corpus, chosen, shared=np.zeros(len(codes), bool))
    assert np.isnan(nowhere.nll[[3, 4, 6]]).all()
    np.testing.assert_allclose(nowhere.nll[[0, 1, 2, 5]], whole.nll[[0, 1, 2, 5]], atol=CLOSE)


@pytest.mark.parametrize("budget", [1000, 100, 1])
def test_budgets_do_not_change_the_outcomes(tiny: Model, corpus: Corpus, budget: int, way: str):
    done: list[int] = []
    want = battery(tiny, corpus, conditions())
    got = battery(tiny, corpus, conditions(), token_budget=budget, progress=done.append)
    assert_same_outcomes(got, want)
    assert sum(done) == corpus.alignment.n_tokens * (len(conditions()) + 1)


@pytest.mark.parametrize("in_file", [False, True])
def test_workers_side_by_side_find_the_same(
    tiny: Model,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    in_file: bool,
):
    """Three workers share the batches and, since these are few, the lesions of each."""
    want = battery(tiny, corpus, conditions())
    monkeypatch.setattr(lesion_battery, "n_workers", lambda _: 3)
    done: list[int] = []
    folder = tmp_path / "parts" if in_file else None
    got = battery(tiny, corpus, conditions(), progress=done.append, folder=folder)
    assert_same_outcomes(got, want)
    assert sum(done) == corpus.alignment.n_tokens * (len(conditions()) + 1)
    if folder is not None:
        again = battery(tiny, corpus, conditions(), folder=folder)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(again, name), getattr(got, name))


@pytest.mark.parametrize("index", [0, 1])
def test_processes_of_a_group_tell_of_each_others_batches_as_they_go(
    tiny: Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, index: int
):
    """Each of two processes tells of the whole corpus, and of nothing before its first batch."""
    total = corpus.alignment.n_tokens * (len(conditions()) + 1)
    told: list[int] = []
    before: list[int] = []

    def scoring(*args: Any) -> Any:
        before.append(sum(told))
        return split_losses(*args)

    monkeypatch.setattr(lesion_battery, "split_losses", scoring)
    monkeypatch.setattr(lesion_battery.distributed, "add_up", lambda *_: None)
    monkeypatch.setattr(lesion_battery.distributed, "world", lambda: Shard(index, 2))
    battery(tiny, corpus, conditions(), token_budget=100, progress=told.append)
    assert sum(told) == total
    assert before[0] == 0
    assert before[-1] > total / 3


def test_an_error_of_one_worker_is_raised(
    tiny: Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lesion_battery, "n_workers", lambda _: 2)
    put = split_losses

    def failing_once(*args: Any) -> Any:
        if threading.current_thread().name.endswith("_1"):
            raise ZeroDivisionError
        return put(*args)

    monkeypatch.setattr(lesion_battery, "split_losses", failing_once)
    with pytest.raises(ZeroDivisionError):
        battery(tiny, corpus, conditions())


def test_a_path_that_shares_weights_has_its_own_changes(tiny: Model):
    fast = present(compared(tiny))
    first, other = fast.for_workers(2)
    assert first is fast
    assert fast.for_workers(3)[:2] == [fast, other]
    ids = torch.arange(6)[None]
    with torch.no_grad():
        usual = fast.read(ids, {"resid_pre": [fast.n_layers]}).activations
        with fast.changed({("neuron", 0): torch.zeros_like}):
            changed = fast.read(ids, {"resid_pre": [fast.n_layers]}).activations
            apart = other.read(ids, {"resid_pre": [fast.n_layers]}).activations
    at = ("resid_pre", fast.n_layers)
    assert not torch.equal(changed[at], usual[at])
    assert torch.equal(apart[at], usual[at])
    ours, theirs = ([w.data_ptr() for w in x.body.parameters()] for x in (fast, other))
    assert ours == theirs


def test_a_battery_of_some_words_only(tiny: Model, corpus: Corpus, way: str):
    """Sentences without scored words are not read, nor what comes after the last scored word."""
    whole = battery(tiny, corpus, conditions())
    codes = corpus.read("next")
    keep = (codes >= 0) & np.isin(corpus.alignment.sentence, [2, 7])
    late = np.flatnonzero(keep & (corpus.alignment.sentence == 7))[-3:]
    keep[late] = False
    done: list[int] = []
    got = run_battery(
        tiny,
        corpus.alignment,
        np.where(keep, codes, -1),
        fit_lexicon(tiny, corpus),
        conditions(),
        progress=done.append,
    )
    rows = np.searchsorted(whole.word, got.word)
    assert got.word.tolist() == np.flatnonzero(keep).tolist()
    for name in ARRAYS[:3]:
        np.testing.assert_allclose(getattr(got, name), getattr(whole, name)[:, rows], atol=CLOSE)
    read = np.unique(corpus.alignment.row[keep])
    n_tokens = sum(len(corpus.alignment.token_ids[row]) for row in read)
    assert sum(done) == n_tokens * (len(conditions()) + 1)


def test_the_order_of_conditions_does_not_matter(tiny: Model, corpus: Corpus, way: str):
    chosen = conditions()
    want = battery(tiny, corpus, chosen, token_budget=900)
    got = battery(tiny, corpus, chosen[::-1], token_budget=900)
    back = [0, *range(len(chosen), 0, -1)]
    probed = [got.probed.index(back[row]) for row in want.probed]
    restored = replace(
        got,
        **{name: getattr(got, name)[back] for name in (*ARRAYS[:3], "top_label")},
        tag_probability=got.tag_probability[probed],
    )
    assert_same_outcomes(restored, want)
    for condition in chosen:
        row = want.row(condition.label, condition.replicate)
        assert back[row] == got.row(condition.label, condition.replicate)
    with pytest.raises(GrammarLensError, match="no lesion of 'SYM', replicate 2"):
        want.row("SYM", 2)


def test_without_conditions_the_intact_model_is_scored(tiny: Model, corpus: Corpus, way: str):
    outcomes = battery(tiny, corpus, [])
    assert outcomes.nll.shape == (1, len(outcomes.word))
    assert outcomes.identity_error() == 0.0
    assert 0 < outcomes.seen_mass < 1


def test_without_words_there_is_nothing(tiny: Model, corpus: Corpus):
    none = np.full(corpus.alignment.n_words, -1)
    lexicon = fit_lexicon(tiny, corpus)
    got = run_battery(tiny, corpus.alignment, none, lexicon, conditions())
    assert got.nll.shape == (6, 0)
    assert got.seen_mass == 0.0


def test_some_conditions_of_outcomes(tiny: Model, corpus: Corpus):
    half = Ablation("zero", 0.5)
    chosen = [*conditions(), *in_ablation(conditions()[:2], half)]
    chosen += [Condition("NOUN", 1, draw(np.random.default_rng(6), 3, [0]), kind="matched")]
    whole = battery(tiny, corpus, chosen)
    for ablation, kind, rows in ((half, "set", [6, 7]), (Ablation(), "matched", [8])):
        part = whole.only(ablation, kind)
        assert part.conditions == tuple(chosen[row - 1] for row in rows)
        for name in (*ARRAYS[:3], "top_label"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[[0, *rows]])
        probed = [whole.probed.index(row) for row in (0, *rows) if row in whole.probed]
        np.testing.assert_array_equal(part.tag_probability, whole.tag_probability[probed])
        assert part.probed == tuple(range(len(part.probed)))


# Donors of a battery ------------------------------------------------------------------------


def test_all_lesions_of_a_battery_have_the_same_donors(deep: Model, few: Corpus, way: str):
    """Whatever stands beside them, and in whatever batches; another seed draws others."""
    chosen = [
        Condition("NOUN", 0, KINDS["first layer"], Ablation("resample")),
        Condition("NOUN", 1, KINDS["first layer"], Ablation("resample", 0.5)),
        Condition("VERB", 0, KINDS["first layer"], Ablation("resample_within")),
    ]
    donors = donors_of(deep, few, [KINDS["first layer"]])
    one = battery(deep, few, chosen, donors=donors)
    again = battery(deep, few, [chosen[0], *chosen[::-1]], donors=donors, token_budget=70)
    np.testing.assert_allclose(again.nll[[1, 3, 2]], one.nll[[1, 2, 3]], atol=CLOSE)
    np.testing.assert_allclose(again.nll[4], one.nll[1], atol=CLOSE)
    other = battery(deep, few, chosen, donors=donors, seed=1)
    assert (np.abs(other.nll[1:] - one.nll[1:]).max(1) > 0.01).all()
    assert np.abs(one.nll[1] - one.nll[3]).max() > 0.01
    with pytest.raises(GrammarLensError, match="'resample' needs the activations of other words"):
        battery(deep, few, chosen)


# Errors on the way --------------------------------------------------------------------------


@contextmanager
def failing(
    model: Model, way: str, should: Callable[[int, str], BaseException | None]
) -> Iterator[list[int]]:
    """Passes fail where `should` says so; yields the tokens that each was given."""
    given: list[int] = []

    def passed(tokens: int, what: str) -> None:
        given.append(tokens)
        error = should(tokens, what)
        if error is not None:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        if way == "fast":
            fast = copy(compared(model))
            read, run = fast.read, fast.run

            def reading(ids: Tensor, *args: Any, **options: Any) -> Any:
                passed(ids.numel(), "intact")
                return read(ids, *args, **options)

            def running(hidden: Tensor, *args: Any, **options: Any) -> Any:
                # BOS is not run again
                passed(hidden.shape[0] * (hidden.shape[1] + 1), "lesioned")
                return run(hidden, *args, **options)

            patch.setattr(fast, "read", reading)
            patch.setattr(fast, "run", running)
            patch.setattr(lesion_battery, "fast_path", lambda _: fast)
            patch.setattr(lesion_battery, "n_workers", lambda _: 1)  # copies would not be watched
        else:
            whole = next_token_logits

            def hooked(model: Model, ids: Tensor, where: Tensor) -> Tensor:
                is_cut = any(point.fwd_hooks for point in model.hook_dict.values())
                passed(ids.numel(), "lesioned" if is_cut else "intact")
                return whole(model, ids, where)

            patch.setattr("grammar_lens.lesions.passes.next_token_logits", hooked)
        yield given


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize(("tokens", "error"), list(zip([400, 120, 30], OUT_OF_MEMORY, strict=True)))
def test_out_of_memory_splits_conditions_then_sentences(
    tiny: Model,
    corpus: Corpus,
    tokens: int,
    error: BaseException,
    way: str,
):
    done: list[int] = []
    want = battery(tiny, corpus, conditions())
    with failing(tiny, way, lambda n, _: error if n > tokens else None) as given:
        got = battery(tiny, corpus, conditions(), progress=done.append)
    assert max(given) > tokens
    assert sum(n > tokens for n in given) < 12, "it learns how much fits"
    assert_same_outcomes(got, want)
    assert sum(done) == corpus.alignment.n_tokens * (len(conditions()) + 1)


@pytest.mark.parametrize("tokens", [60, 30])
def test_a_single_lesion_that_does_not_fit_halves_the_sentences(
    tiny: Model, corpus: Corpus, tokens: int, way: str
):
    """The intact pass fits, and so do the first lesions of the batch: they are scored once more."""
    want = battery(tiny, corpus, conditions())
    calls: list[str] = []

    def late(n: int, what: str) -> BaseException | None:
        calls.append(what)
        fails = what == "lesioned" and calls.count("lesioned") > 1 and n > tokens
        return OUT_OF_MEMORY[0] if fails else None

    with failing(tiny, way, late):
        got = battery(tiny, corpus, conditions())
    assert_same_outcomes(got, want)
    assert calls[:2] == ["intact", "lesioned"]


@pytest.mark.parametrize("what", ["intact", "lesioned"])
def test_a_single_sentence_that_does_not_fit(tiny: Model, corpus: Corpus, what: str, way: str):
    hooks = n_hooks(tiny)
    with (
        failing(tiny, way, lambda _, here: OUT_OF_MEMORY[1] if here == what else None),
        pytest.raises(GrammarLensError, match=r"one sentence of \d+ tokens does not fit in memory"),
    ):
        battery(tiny, corpus, conditions())
    assert n_hooks(tiny) == hooks


def test_other_errors_of_a_battery_pass_through(tiny: Model, corpus: Corpus, way: str):
    bad = [Condition("NOUN", 0, replace(units((0, 3)), mean=None))]
    with pytest.raises(GrammarLensError, match="is not known"):
        battery(tiny, corpus, bad)
    for error in (RuntimeError("something else"), KeyboardInterrupt()):
        before = battery(tiny, corpus, conditions())
        hooks, leaves = n_hooks(tiny), _hooks_of_leaves(tiny)
        with pytest.raises(type(error)), _breaking(tiny, error, after=15):
            battery(tiny, corpus, conditions(), token_budget=100)
        assert n_hooks(tiny) == hooks
        assert _hooks_of_leaves(tiny) == leaves
        after = battery(tiny, corpus, conditions())
        np.testing.assert_array_equal(after.nll, before.nll)


def _hooks_of_leaves(model: Model) -> int:
    leaves = [m for m in model.original_model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in leaves)


@contextmanager
def _breaking(model: Model, error: BaseException, after: int) -> Iterator[None]:
    """The last layer's down_proj, shared by bridge and fast path, fails at its n-th use."""
    down: Any = model.original_model.model.layers[1].mlp.down_proj.original_component
    forward, used = down.forward, []

    def break_down(x: Tensor) -> Tensor:
        used.append(x)
        if len(used) > after:
            raise error
        return forward(x)

    down.forward = break_down
    try:
        yield
    finally:
        del down.forward


def test_batteries_skip_bos_as_lesions_do(tiny: Model, corpus: Corpus, way: str):
    """Cutting BOS would change every word: activations there are unlike all others."""
    assert corpus.alignment.has_bos
    down: Any = tiny.original_model.model.layers[1].mlp.down_proj.original_component
    forward, seen = down.forward, []

    def spy(x: Tensor) -> Tensor:
        seen.append(x[..., 5].clone())
        return forward(x)

    with torch.no_grad():
        tiny(torch.from_numpy(corpus.alignment.token_ids[0])[None])
        down.forward = spy
        try:
            tiny(torch.from_numpy(corpus.alignment.token_ids[0])[None])
            intact = seen.pop()[0, 0]
            first = len(corpus.read("next"))
            battery(tiny, corpus, [Condition("NOUN", 0, units((1, 5), (0, 7), mean=[9.0, 0.0]))])
        finally:
            del down.forward
    cut = [values for values in seen if (values == 9).any()]
    assert cut
    for values in cut:
        if way == "fast":  # the scored places alone, and BOS is not run again
            assert (values == 9).all()
            assert values.numel() < first
        else:
            torch.testing.assert_close(values[:, 0], intact.expand(len(values)))
            assert (values[:, 1:] == 9).all()
