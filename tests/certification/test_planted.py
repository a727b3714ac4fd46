"""Planted worlds are what they claim: the chain, the neurons, the decoys, the paths."""

from itertools import combinations

import numpy as np
import pytest
import torch

import grammar_lens as gl
from grammar_lens.certification.planted.chain import (
    LEAST_COST,
    LEAST_SLOPE,
    TAGS,
    TagChain,
    draw_chain,
)
from grammar_lens.certification.planted.design import design
from grammar_lens.certification.planted.world import World, plant
from grammar_lens.certification.world_result import with_sets
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import n_parameters
from grammar_lens.neurons.neurons import Neurons

SMALL = {"train_words": 1500, "fresh_words": 1500}


@pytest.fixture(scope="module")
def chain() -> TagChain:
    return draw_chain(np.random.default_rng(3))


@pytest.fixture(scope="module")
def true_world() -> World:
    return plant("true", **SMALL)


def neurons(addresses: tuple[tuple[int, int], ...], name: str = "planted") -> Neurons:
    layer, index = np.array(addresses, np.int64).reshape(-1, 2).T
    return Neurons(name, "neuron", layer, index, np.zeros(len(layer)))


def logits(world: World) -> torch.Tensor:
    ids = world.model.tokenizer([s.text for s in world.fresh.sentences[:4]], padding=True)
    with torch.no_grad():
        return world.model(torch.tensor(ids["input_ids"]), return_type="logits")


def tag_loss(world: World) -> float:
    """Mean -log P(tag) of the model, from the logits alone."""
    losses = []
    for sentence in world.fresh.sentences[:60]:
        ids = torch.tensor([world.model.tokenizer(sentence.text)["input_ids"]])
        with torch.no_grad():
            p = world.model(ids, return_type="logits")[0].double().softmax(-1)[:, 2:]
        p_tag = p.reshape(len(p), len(TAGS), -1).sum(-1)
        gold = [TAGS.index(str(w.label("upos"))) for w in sentence.words[1:]]
        losses += (-p_tag[1:-1].log())[range(len(gold)), gold].tolist()
    return float(np.mean(losses))


class TestChain:
    def test_stationary_is_the_limit_of_many_steps(self, chain: TagChain) -> None:
        limit = np.linalg.matrix_power(chain.transition, 200)
        np.testing.assert_allclose(limit, np.tile(chain.stationary, (6, 1)), atol=1e-12)

    def test_evidence_gives_the_next_tag(self, chain: TagChain) -> None:
        weights = chain.stationary * np.exp(chain.evidence)
        np.testing.assert_allclose(weights / weights.sum(1, keepdims=True), chain.transition)

    def test_lesion_cost_is_the_loss_of_a_simulated_model(self, chain: TagChain) -> None:
        """Second opinion: the mean over drawn pairs of tags, within 4 standard errors."""
        rng = np.random.default_rng(0)
        now = rng.choice(6, 40_000, p=chain.stationary)
        steps = chain.transition.cumsum(1)[now]
        after = (rng.random(len(now))[:, None] > steps).sum(1)
        for c, expected in enumerate(chain.lesion_cost()):
            held = chain.evidence.copy()
            held[:, c] = chain.stationary @ held[:, c]
            p = chain.stationary * np.exp(held)
            p /= p.sum(1, keepdims=True)
            mine = now[after == c]
            rise = np.log(chain.transition[mine, c]) - np.log(p[mine, c])
            assert abs(rise.mean() - expected) < 4 * rise.std() / np.sqrt(len(rise))

    def test_slope_is_the_derivative_of_the_loss(self, chain: TagChain) -> None:
        """Finite differences; a value written to both alike tags."""
        first, second = chain.alike
        values = chain.common - chain.stationary @ chain.common

        def loss(dose: float) -> float:
            logits = np.log(chain.transition)
            logits[:, [first, second]] += dose * values[:, None]
            given = chain.stationary * chain.transition[:, first] / chain.stationary[first]
            return float(given @ (np.log(np.exp(logits).sum(1)) - logits[:, first]))

        numeric = (loss(-1e-5) - loss(1e-5)) / 2e-5
        assert chain.slope(chain.common, first, chain.alike) == pytest.approx(numeric, rel=1e-6)

    def test_every_chain_is_worth_its_evidence(self) -> None:
        for seed in range(5):
            drawn = draw_chain(np.random.default_rng(seed))
            assert drawn.lesion_cost().min() >= LEAST_COST
            assert min(drawn.slope(drawn.own(c), c) for c in range(6)) >= LEAST_SLOPE

    def test_text_follows_the_chain(self, chain: TagChain) -> None:
        bank = chain.treebank("text", 20_000, np.random.default_rng(1))
        seen = np.zeros((6, 6))
        for sentence in bank.sentences:
            tags = [TAGS.index(str(w.label("upos"))) for w in sentence.words]
            np.add.at(seen, (tags[:-1], tags[1:]), 1)
        rows = seen.sum(1, keepdims=True)
        error = np.sqrt(chain.transition * (1 - chain.transition) / rows)
        assert (np.abs(seen / rows - chain.transition) < 5 * error).all()
        for word in bank.sentences[0].words:
            assert word.form.startswith(str(word.label("upos")).lower())
            assert word.span is not None
            assert bank.sentences[0].text[slice(*word.span)] == word.form


class TestWorld:
    def test_a_world_is_the_same_every_time_and_no_other(self, true_world: World) -> None:
        again, other = plant("true", **SMALL), plant("true", 1, **SMALL)
        assert torch.equal(logits(again), logits(true_world))
        assert again.sets == true_world.sets
        assert again.fresh.sentences == true_world.fresh.sentences
        assert other.sets != true_world.sets
        assert other.fresh.sentences != true_world.fresh.sentences
        assert plant("true", seed=1, **SMALL).sets != true_world.sets

    def test_it_is_small(self, true_world: World) -> None:
        assert n_parameters(true_world.model) == 62_640
        assert {layer for s in true_world.sets.values() for layer, _ in s} == {0, 1}
        assert true_world.fresh.n_words >= 1500

    def test_one_token_for_every_word(self, true_world: World) -> None:
        for sentence in true_world.train.sentences[:20]:
            ids = true_world.model.tokenizer(sentence.text)["input_ids"]
            assert len(ids) == 1 + len(sentence.words)
            assert ids[0] == 0
            assert min(ids[1:]) >= 2

    @pytest.mark.parametrize("kind", ["true", "weak", "elsewhere"])
    def test_the_model_knows_the_chain(self, kind: str) -> None:
        """Whatever carries the evidence: the loss is the chain's entropy, noise and codes apart."""
        world = plant(kind, 1, **SMALL)
        assert tag_loss(world) == pytest.approx(world.chain.entropy, abs=0.15)

    @pytest.mark.parametrize(("number", "path"), [(0, "embedding"), (1, "attention"), (2, "none")])
    def test_null_worlds_know_it_by_another_path_or_not_at_all(
        self, number: int, path: str
    ) -> None:
        world = plant("null", number, **SMALL)
        share = world.chain.stationary
        known = world.chain.entropy if path != "none" else float(-(share @ np.log(share)))
        assert world.path == path
        assert tag_loss(world) == pytest.approx(known, abs=0.2)

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(GrammarLensError, match=r"'real'.*true, null"):
            plant("real")


class TestNeurons:
    def test_activations_are_what_the_neurons_read(self, true_world: World) -> None:
        """Each own neuron's mean by current tag is, up to scale, the evidence for its tag."""
        moments = gl.collect(
            true_world.model, true_world.train, position="word", show_progress=False
        )["neuron"]
        chain, order = true_world.chain, [moments.labels.index(tag) for tag in TAGS]
        single = [c for c in range(6) if c not in chain.alike]
        for c in single:
            for layer, index in true_world.sets[TAGS[c]]:
                mean = moments.mean[order, layer, index]
                assert np.corrcoef(mean, chain.evidence[:, c])[0, 1] > 0.999

    def test_cutting_a_set_costs_its_tag_what_the_chain_says(self, true_world: World) -> None:
        moments = gl.collect(
            true_world.model, true_world.train, position="next", show_progress=False
        )["neuron"]
        keys = gl.select(gl.score(moments), k=5)
        study = gl.lesion_study(
            true_world.model,
            true_world.fresh,
            with_sets(keys, true_world.sets),
            lexicon=true_world.train,
            labels=TAGS,
            shams=0,
            show_progress=False,
        )
        expected = true_world.chain.lesion_cost()
        single = [c for c in range(6) if c not in true_world.chain.alike]
        # a shared neuron takes something from the other tag too, which softens its own loss
        np.testing.assert_allclose(np.diag(study.matrix)[single], expected[single], atol=0.15)
        assert np.diag(study.matrix).min() >= 0.1

    def test_two_tags_share_a_neuron_and_one_neuron_is_doubled(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(5):
            chain = draw_chain(rng)
            planted = design("true", 0, chain, rng).planted
            shared = [n for n in planted if len(n.tags) > 1]
            assert [n.tags for n in shared] == [tuple(sorted(chain.alike))]
            doubled = [
                a.tags
                for a, b in combinations(planted, 2)
                if np.array_equal(a.to_tags, b.to_tags) and np.array_equal(a.reads, b.reads)
            ]
            assert len(doubled) == 1
            assert set(doubled[0]).isdisjoint(chain.alike)
            total = sum(np.outer(n.reads, n.to_tags) for n in planted)
            np.testing.assert_allclose(total, chain.evidence, atol=1e-12)

    @pytest.mark.parametrize("kind", ["true", "decoy"])
    def test_decoys_fire_with_a_tag_and_write_nothing(self, kind: str) -> None:
        world = plant(kind, **SMALL)
        before = logits(world)
        cut = tuple(a for s in world.decoys.values() for a in s)
        with gl.lesion(world.model, neurons(cut), value="zero"):
            assert torch.equal(logits(world), before)
        moments = gl.collect(world.model, world.train, position="next", show_progress=False)
        scores = gl.score(moments["neuron"], "correlation")
        chosen = gl.select(scores, k=1)
        assert all(next(iter(chosen[tag])) in world.decoys[tag] for tag in TAGS)

    def test_planted_neurons_are_no_decoys_and_write(self, true_world: World) -> None:
        before = logits(true_world)
        for tag in TAGS:
            assert set(true_world.sets[tag]).isdisjoint(true_world.decoys[tag])
            with gl.lesion(true_world.model, neurons(true_world.sets[tag]), value="zero"):
                assert (logits(true_world) - before).abs().max() > 0.1

    def test_null_sets_are_drawn_in_the_layers_of_a_true_world(self) -> None:
        world = plant("null", 4, **SMALL)
        both = [TAGS[c] for c in world.chain.alike]
        shared = [a for s in world.sets.values() for a in s]
        assert len(shared) - len(set(shared)) == 1
        assert len(set(world.sets[both[0]]) & set(world.sets[both[1]])) == 1
        assert world.decoys == dict.fromkeys(TAGS, ())

    def test_strays_write_elsewhere(self) -> None:
        """Even numbers into a code, odd ones into another tag's direction, never into their own."""
        rng = np.random.default_rng(0)
        chain = draw_chain(rng)
        for neuron in design("elsewhere", 0, chain, rng).planted:
            assert not neuron.to_tags.any()
            assert neuron.to_code > 0
        for neuron in design("elsewhere", 1, chain, rng).planted:
            assert neuron.to_code == 0
            assert np.flatnonzero(neuron.to_tags).tolist() != [neuron.tags[0]]
            assert np.count_nonzero(neuron.to_tags) == 1
