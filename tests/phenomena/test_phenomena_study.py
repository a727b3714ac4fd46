"""The study of phenomena, on a model whose neurons for each are planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.phenomena.battery import PairLesion, lesioned_log_odds
from grammar_lens.phenomena.damage_matched import GrowingPairShams
from grammar_lens.phenomena.pairs import MinimalPair
from grammar_lens.phenomena.scoring import PreparedPairs
from grammar_lens.phenomena.study import phenomena_study

NOUNS = {"x": ("old", "rain"), "y": ("day", "run"), "z": ("read", "like")}
VERBS = ("is", "do")
PLANTED = {"x": {3, 4}, "y": {5, 6}, "z": {7, 8}}
"""Neurons of layer 1 that each phenomenon needs: one for either noun."""
QUIET: dict[str, Any] = {"show_progress": False, "k": 2}


def pairs_of(n: int = 60) -> list[MinimalPair]:
    """After the first noun of a phenomenon the first verb is right, after the second the other."""
    pairs = []
    for name, nouns in NOUNS.items():
        for i in range(n):
            good, bad = VERBS if i % 2 == 0 else VERBS[::-1]
            begin = f"He{chr(97 + i // 26)}{chr(97 + i % 26)}{name} {nouns[i % 2]}"
            pairs.append(MinimalPair(name, f"{begin} {good}.", f"{begin} {bad}.", f"term {name}"))
    return pairs


def world(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, spread: float = 0.0
) -> tuple[Model, KeyNeurons]:
    """A model that tells the verbs apart by six neurons, and key neurons of two tags.

    With a `spread` all other neurons of layer 1 favour one of the verbs a little, at random.
    """
    words = [*(noun for nouns in NOUNS.values() for noun in nouns), *VERBS]
    ids = [tiny_tokenizer(f" {w}", add_special_tokens=False).input_ids for w in words]
    assert all(len(one) == 1 for one in ids)
    hf = tiny_hf()
    body, rng = hf.model, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in body.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.post_attention_layernorm.weight.fill_(1)
            # all others write where no word is read
            layer.mlp.down_proj.weight.zero_()
            noise = torch.randn(12, 48, generator=rng)
            layer.mlp.down_proj.weight[20:] = 0.001 * noise
        body.norm.weight.fill_(1)
        body.embed_tokens.weight[:, 20:] = 0
        hf.lm_head.weight[:, 20:] = 0
        rows = torch.eye(32)[: len(words)] * 4
        body.embed_tokens.weight[[one[0] for one in ids]] = rows
        hf.lm_head.weight[[one[0] for one in ids]] = rows
        mlp = body.layers[1].mlp
        favour = spread * torch.randn(48, generator=rng)
        mlp.down_proj.weight[6], mlp.down_proj.weight[7] = favour, -favour
        for n, unit in enumerate(sorted(set().union(*PLANTED.values()))):
            mlp.gate_proj.weight[unit] = torch.eye(32)[n] * 4
            mlp.up_proj.weight[unit] = torch.eye(32)[n]
            mlp.down_proj.weight[:, unit] = 0
            mlp.down_proj.weight[6, unit] = 0.004 if n % 2 == 0 else -0.004
            mlp.down_proj.weight[7, unit] = -0.004 if n % 2 == 0 else 0.004
    model = load_model(hf, tokenizer=tiny_tokenizer)
    units = UnitStatistics(np.zeros((2, 48)), np.ones((2, 48)), np.zeros((2, 48)))
    tags = {"NOUN": [3, 5, 7], "VERB": [20, 21, 22]}
    sets = {
        tag: Neurons(tag, "neuron", np.ones(3, int), np.array(index), np.ones(3), np.zeros(3))
        for tag, index in tags.items()
    }
    origin = Origin("tiny", "none", "upos", "next", "neuron")
    return model, KeyNeurons(sets, "planted", "by hand", 48, 2, units, origin)


@pytest.fixture
def planted(tiny_hf: Callable[[], Any], tiny_tokenizer: Any) -> tuple[Model, KeyNeurons]:
    """A model in which no other neuron matters."""
    return world(tiny_hf, tiny_tokenizer)


def test_planted_neurons_are_found_and_only_their_own_phenomenon_needs_them(
    planted: tuple[Model, KeyNeurons],
) -> None:
    model, keys = planted
    study = phenomena_study(model, pairs_of(), keys, shams=19, sham_pairs=None, **QUIET)
    assert study.phenomena == ("x", "y", "z")
    assert {name: set(study.keys[name].index.tolist()) for name in study.keys} == PLANTED
    assert all((s.layer == 1).all() for s in study.keys.values())
    intact = study.intact.set_index("phenomenon")
    assert (intact.accuracy == 1).all()
    assert intact.log_odds.min() > 1
    own = np.diag(study.own.fall)
    # what is left is a preference for one verb, whichever noun it follows: half the pairs are right
    np.testing.assert_allclose(own, intact.log_odds, rtol=0.05)
    np.testing.assert_allclose(np.diag(study.own.accuracy), 0.5)
    apart = ~np.eye(3, dtype=bool)
    assert np.abs(study.own.fall[apart]).max() < 0.05 * own.min()
    assert (study.own.accuracy[apart] == 1).all()
    assert np.abs(study.own.sham).max() < 0.05 * own.min()
    assert study.specificity == pytest.approx(1, abs=0.05)
    assert study.specificity_interval[0] > 0.9
    assert study.p_value == 0.05
    assert {(p.first, p.second) for p in study.crossed_pairs} == {
        ("x", "y"),
        ("x", "z"),
        ("y", "z"),
    }
    assert all(p.confirmed for p in study.crossed_pairs)
    assert np.isnan(study.same_term_mean)
    # a tag of one neuron of each phenomenon costs each about half of its log odds; another none
    assert study.tags is not None
    np.testing.assert_allclose(study.tags.fall[0], intact.log_odds / 2, rtol=0.3)
    assert np.abs(study.tags.fall[1]).max() < 0.05 * own.min()
    shared = study.overlap.set_index(["phenomenon", "tag"]).shared
    assert shared["x", "NOUN"] == 1
    assert shared["x", "VERB"] == 0
    assert study.reliability.set_index("label").shared.to_dict() == {"x": 2, "y": 2, "z": 2}
    assert (
        "3 of 3 pairs of phenomena dissociate doubly, 3 of them by accuracy too" in study.verdict()
    )
    assert "<table" in study._repr_html_()
    table = study.to_frame()
    assert len(table) == 3 * 3 + 2 * 3
    assert set(table.of) == {"phenomenon", "tag"}


def test_shams_that_carry_too_little_are_grown_until_they_change_as_much(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    model, keys = world(tiny_hf, tiny_tokenizer, spread=0.3)
    options = {"shams": 19, "sham_pairs": 20, **QUIET}
    study = phenomena_study(model, pairs_of(), keys, **options)
    assert study.own.output_ratio.min() < 0.9
    matched = study.own.damage_matched
    assert matched is not None
    # aimed at 1.1, good enough within .15 of it, at pairs that are half as many in a fold
    assert (matched.damage_ratio > 0.85).all()
    assert (matched.damage_ratio < 1.35).all()
    assert (matched.size > study.own.n_neurons).all()
    assert study.p_value == 0.05
    assert matched.damage_ratio.min() >= 0.9
    assert study.is_selective
    assert "damage-matched shams" in study.verdict()
    # two of three phenomena at chance, or a loss of a thousandth, are no finding, whatever p is
    intact = study.intact
    chance = replace(study, intact=intact.assign(low=[0.4, 0.6, 0.5]))
    assert chance.known.tolist() == [False, True, False]
    assert not chance.is_selective
    assert "masters 1 of 3" in chance.verdict()
    assert "does not master x, z" in chance.verdict()
    certain = replace(study, intact=intact.assign(log_odds=intact.log_odds * 1000))
    assert not certain.is_selective
    assert "less than a hundredth" in certain.verdict()
    weak = phenomena_study(model, pairs_of(), keys, damage_matched=0, **options)
    assert weak.own.damage_matched is None
    assert not weak.is_selective
    least = (
        f"the shams carry as little as {weak.own.output_ratio.min():.2f} of the real sets' output"
    )
    assert weak.verdict().count(least) == 2


def test_shams_grow_to_the_size_whose_damage_is_asked_for(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    """Asked for the damage of twelve random neurons of the layer, about twelve are taken."""
    model, keys = world(tiny_hf, tiny_tokenizer, spread=0.02)
    rng = np.random.default_rng(3)
    # the planted ones are a set, so that no sham takes them
    planted = sorted(set().union(*PLANTED.values()))

    def units(name: str, index: list[int]) -> Neurons:
        n = len(index)
        return Neurons(
            name, "neuron", np.ones(n, int), np.array(index, int), np.zeros(n), np.zeros(n)
        )

    sets = replace(keys, sets={"a": units("a", planted), "none": units("none", [])})
    prepared = PreparedPairs(model, pairs_of(20))
    n, ablation = len(prepared.pairs), Ablation("mean", 1.0)
    everywhere, fold = np.ones(n, bool), np.arange(n) % 2
    others = np.setdiff1d(np.arange(48), planted)
    twelve = [units("twelve", rng.permutation(others)[:12].tolist()) for _ in range(30)]
    lesions = [PairLesion(s, everywhere) for s in twelve]
    whole = lesioned_log_odds(model, prepared, lesions, ablation).whole
    damage = np.abs(whole[0] - whole[1:]).mean()
    real = np.stack([np.full(n, -damage), np.zeros(n)])
    found, again = (
        GrowingPairShams(
            *(model, prepared, [sets, sets], fold, everywhere, ablation, 20),
            np.random.default_rng(0),
            show_progress=False,
        ).falls(real)
        for _ in range(2)
    )
    # aimed at 1.1 and good enough within .15 of that
    assert found.damage_ratio[0] == pytest.approx(1.1, abs=0.17)
    # signs cancel, so that damage rises more slowly than size
    assert 8 <= found.size[0] <= 22
    assert np.isnan(found.damage_ratio[1])
    assert found.size[1] == 0
    assert (found.shams[:, 1] == 0).all()
    assert found.shams.shape == (20, 2, n)
    np.testing.assert_array_equal(found.shams, again.shams)
    assert found.damage_ratio[0] == pytest.approx(np.abs(found.shams[:, 0]).mean() / damage)


def test_no_pair_chooses_the_neurons_that_are_cut_at_it(planted: tuple[Model, KeyNeurons]) -> None:
    """With signs turned in one fold, that fold's pairs choose others' neurons, never their own."""
    model, keys = planted
    pairs = pairs_of()
    whole = phenomena_study(model, pairs, keys, shams=0, tags=(), **QUIET)
    assert whole.pairs is not None
    fold = whole.pairs.fold.to_numpy()
    # the pairs of x in fold 0 are now ungrammatical, so that no unit helps them
    turned = [
        replace(p, good=p.bad, bad=p.good) if p.phenomenon == "x" and fold[i] == 0 else p
        for i, p in enumerate(pairs)
    ]
    study = phenomena_study(model, turned, keys, shams=0, tags=(), **QUIET)
    assert study.pairs is not None
    of_x = np.array([p.phenomenon == "x" for p in pairs])
    fall = study.pairs.fall_x.to_numpy()
    np.testing.assert_array_equal(study.pairs.fold, fold)
    # fold 1's neurons are chosen in fold 0, where the planted ones do harm: none of those is cut
    assert np.abs(fall[of_x & (fold == 1)]).max() < 0.05
    assert (fall[of_x & (fold == 0)] < -1).all()


def test_without_a_difference_nothing_is_chosen_or_called_selective(
    planted: tuple[Model, KeyNeurons],
) -> None:
    """With good and bad at random, no unit passes its null, nothing falls, and the verdict says so."""
    model, keys = planted
    rng = np.random.default_rng(3)
    pairs = [replace(p, good=p.bad, bad=p.good) if rng.random() < 0.5 else p for p in pairs_of()]
    study = phenomena_study(model, pairs, keys, shams=19, tags=(), **QUIET)
    assert sum(len(s) for s in study.keys.values()) == 0
    assert (study.own.fall == 0).all()
    assert study.crossed_pairs == ()
    assert study.specificity is None
    assert "Selective damage is not shown" in study.verdict()
    assert "No neuron was chosen for x, y, z." in study.verdict()
    assert study.tags is None


def test_whole_sentences_find_what_the_differing_token_cannot(
    planted: tuple[Model, KeyNeurons],
) -> None:
    """A difference whose evidence comes after it is told by whole sentences only."""
    model, keys = planted
    pairs = []
    for i in range(60):
        # the noun differs, and what follows is the verb of one of the two
        first, second = NOUNS["x"] if i % 2 == 0 else NOUNS["x"][::-1]
        verb = VERBS[i % 2]
        begin = f"Sh{chr(97 + i // 26)}{chr(97 + i % 26)}"
        pairs.append(MinimalPair("late", f"{begin} {first} {verb}.", f"{begin} {second} {verb}."))
    options: dict[str, Any] = {**QUIET, "shams": 0, "tags": ()}
    token = phenomena_study(model, pairs, keys, **options)
    sentence = phenomena_study(model, pairs, keys, at="sentence", **options)
    assert not PLANTED["x"] & set(token.keys["late"].index.tolist())
    assert set(sentence.keys["late"].index.tolist()) == PLANTED["x"]
    assert sentence.own.fall[0, 0] > 1


def test_errors(planted: tuple[Model, KeyNeurons]) -> None:
    model, keys = planted
    pairs = pairs_of()
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"value": "resample"}, "lesion value is 'resample', expected one of mean, zero"),
        ({"at": "end"}, "at is 'end', expected one of sentence, token"),
        ({"shams": -1}, "shams is -1, expected 0 or more"),
        ({"sham_pairs": 0}, "sham_pairs is 0, expected 1 or more"),
        ({"tags": ["ADJ"]}, "'ADJ' has no key neurons: there are NOUN, VERB"),
        ({"folds": 100}, "needs one for each of 100 folds"),
    )
    for options, message in cases:
        with pytest.raises(GrammarLensError, match=message):
            phenomena_study(model, pairs, keys, **options)
    with pytest.raises(GrammarLensError, match="'NOUN' is both a phenomenon and a tag"):
        phenomena_study(model, [replace(p, phenomenon="NOUN") for p in pairs], keys)
    with pytest.raises(GrammarLensError, match="carry no unit statistics"):
        phenomena_study(model, pairs, replace(keys, units=None))
