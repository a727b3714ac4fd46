"""Probe curves, probes layer by layer and erasure: through the model, against scikit-learn."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from typed import named_rows

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_weight
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.collecting import collect

QUIET: dict[str, Any] = {"show_progress": False}
LABELS = ("DET", "NOUN", "PRON", "VERB")
N_LAYERS, N_UNITS, D_MODEL = 2, 48, 32


@pytest.fixture(scope="module")
def train(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank["train"], labels=LABELS)


@pytest.fixture(scope="module")
def fresh(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank["test"], labels=LABELS)


@pytest.fixture(scope="module")
def keys(tiny: Model, train: Corpus) -> KeyNeurons:
    return select(gl.score(collect(tiny, train, position="word", **QUIET)["neuron"]), k=8)


@pytest.fixture(scope="module")
def weak(keys: KeyNeurons) -> KeyNeurons:
    """Another ranking: the last units of layer 0, the same for every label."""
    sets = {
        x: Neurons(x, "neuron", np.zeros(8, np.int64), np.arange(47, 39, -1), np.ones(8))
        for x in LABELS
    }
    return replace(keys, sets=sets, method="weak")


@pytest.fixture(scope="module")
def read(tiny: Model) -> Any:
    """Reads a corpus one sentence at a time: a hook's values [word, layer, unit] and the classes."""

    def cached(corpus: Corpus, hook: str, position: str = "word") -> tuple[np.ndarray, np.ndarray]:
        alignment, codes = corpus.alignment, corpus.read(position)
        rows = []
        for i, ids in enumerate(alignment.token_ids):
            with torch.no_grad():
                cache = tiny.run_with_cache(torch.from_numpy(ids)[None])[1]
            layers = torch.stack([cache[f"blocks.{la}.{hook}"][0] for la in range(N_LAYERS)], 1)
            mine = np.flatnonzero((alignment.sentence == i) & (codes >= 0))
            where = alignment.last if position == "word" else alignment.first - 1
            rows.append(layers[where[mine]].double().numpy())
        return np.concatenate(rows), codes[codes >= 0]

    return cached


def judged(
    train: tuple[np.ndarray, np.ndarray], fresh: tuple[np.ndarray, np.ndarray], *, svm: bool = False
) -> tuple[float, float]:
    """Accuracy and macro F1 of scikit-learn's classifier on standardised features."""
    classifier = LinearSVC(C=1.0, max_iter=100_000) if svm else LogisticRegression(max_iter=5000)
    model = make_pipeline(StandardScaler(), classifier).fit(*train)
    predicted = model.predict(fresh[0])
    # its zero_division is annotated as text
    judge: Any = f1_score
    f1 = judge(fresh[1], predicted, average="macro", zero_division=0.0)
    return float((predicted == fresh[1]).mean()), float(f1)


# Accuracy against k ---------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["word", "next"])
def test_the_curve_is_the_accuracy_of_the_first_k(
    tiny: Model,
    train: Corpus,
    fresh: Corpus,
    keys: KeyNeurons,
    weak: KeyNeurons,
    read: Any,
    position: str,
):
    found = gl.probe_curve(
        tiny,
        train,
        fresh,
        {"strong": keys, "weak": weak},
        ks=(1, 4),
        position=position,
        control=False,
        n_random=1,
        **QUIET,
    )
    assert [(p.score, p.k) for p in found.points] == [
        *(("strong", 1), ("strong", 4), ("weak", 1), ("weak", 4)),
        *(("random", 1), ("random", 4)),
    ]
    sets = [read(c, "mlp.hook_post", position) for c in (train, fresh)]
    assert (found.n_train_words, found.n_fresh_words) == (len(sets[0][1]), len(sets[1][1]))
    for point in found.points[:4]:
        ranking = keys if point.score == "strong" else weak
        layer, index = ranking.top(point.k).union().T
        (x, y), (new, gold) = ((values[:, layer, index], given) for values, given in sets)
        accuracy, f1 = judged((x, y), (new, gold))
        assert point.n_neurons == len(layer)
        # one of the held-out words may stand on the border
        assert point.accuracy == pytest.approx(accuracy, abs=1.01 / len(gold))
        assert point.macro_f1 == pytest.approx(f1, abs=0.08)
        assert point.control_accuracy is None


def test_what_the_words_tag_decides_is_found_and_the_sham_ranking_is_not_better(
    reference: Model, bank: Treebank
):
    """A trained model's best neurons against the same number of the same layers'."""
    moments = collect(reference, bank["train"], position="word", labels=LABELS, **QUIET)["neuron"]
    best = select(gl.score(moments), k=4)
    found = gl.probe_curve(
        reference, bank["train"], bank["test"], {"best": best}, ks=(4,), n_random=4, **QUIET
    )
    strong, random = found.points
    assert strong.accuracy > random.accuracy + 0.1
    assert strong.accuracy > found.majority_accuracy + 0.2
    assert strong.random_accuracy == random.accuracy == random.random_accuracy
    assert strong.control_accuracy is not None


def test_rankings_of_the_same_number_of_neurons(
    tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons, weak: KeyNeurons
):
    rankings = {"strong": keys, "weak": weak}
    options: dict[str, Any] = {"ks": (2, 5), "control": False, "n_random": 2, **QUIET}
    plain = gl.probe_curve(tiny, train, fresh, rankings, **options).to_frame()
    sizes = plain.set_index(["score", "k"]).n_neurons
    assert sizes["strong", 5] == len(keys.top(5).union())
    assert (sizes["weak", 2], sizes["weak", 5]) == (2, 5), "the labels share them all"
    assert sizes["random", 5] == sizes["strong", 5]
    same = gl.probe_curve(tiny, train, fresh, rankings, same_number=True, **options).to_frame()
    sizes = same.set_index(["score", "k"]).n_neurons
    assert (sizes["strong", 2], sizes["strong", 5]) == (8, 20)
    assert (sizes["weak", 2], sizes["weak", 5]) == (8, 8), "no more than there are"


def test_labels_take_turns_for_the_same_number(
    tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons, read: Any
):
    """DET and NOUN want the same neurons: DET gets its first, NOUN what is left."""

    def of(name: str, units: list[int]) -> Neurons:
        return Neurons(name, "neuron", np.ones(4, np.int64), np.array(units), np.ones(4))

    sets = {
        "DET": of("DET", [5, 6, 7, 8]),
        "NOUN": of("NOUN", [5, 6, 9, 10]),
        "PRON": of("PRON", [5, 11, 12, 13]),
        "VERB": of("VERB", [20, 21, 22, 23]),
    }
    crowded = replace(keys, sets=sets)
    found = gl.probe_curve(
        tiny, train, fresh, {"a": crowded}, ks=(1,), same_number=True, n_random=0, **QUIET
    ).points[0]
    (x, y), (new, gold) = (read(c, "mlp.hook_post") for c in (train, fresh))
    turns = [5, 6, 11, 20]
    want = judged((x[:, 1, turns], y), (new[:, 1, turns], gold))[0]
    assert found.n_neurons == 4
    assert found.accuracy == pytest.approx(want, abs=1.01 / len(gold))
    assert found.random_accuracy is None


def test_the_curve_is_the_same_every_time_and_reads_few_words(
    tiny: Model, bank: Treebank, keys: KeyNeurons
):
    def made(seed: int) -> Any:
        return gl.probe_curve(
            tiny, bank["train"], bank["test"], {"a": keys}, ks=(3,), max_train_words=30, seed=seed,
            **QUIET,
        )  # fmt: skip

    one, same, other = made(1), made(1), made(2)
    assert one == same
    assert one.points != other.points
    assert one.n_train_words <= 30


def test_rankings_that_cannot_be_compared(
    tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons
):
    few = keys.only(["DET", "NOUN"])
    with pytest.raises(
        GrammarLensError,
        match=r"'b'.*DET, NOUN.*'neuron'.*DET, NOUN, PRON, VERB",
    ):
        gl.probe_curve(tiny, train, fresh, {"a": keys, "b": few}, **QUIET)
    elsewhere = replace(keys, origin=replace(keys.origin, site="resid_post"))
    with pytest.raises(GrammarLensError, match=r"'b'.*'resid_post'.*'neuron'"):
        gl.probe_curve(tiny, train, fresh, {"a": keys, "b": elsewhere}, **QUIET)
    with pytest.raises(GrammarLensError, match="no ranking was given"):
        gl.probe_curve(tiny, train, fresh, {}, **QUIET)


# Layer by layer -------------------------------------------------------------------------------


def test_every_layer_alone_by_both_classifiers(
    tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons, read: Any
):
    table = gl.probe_layers(
        tiny, train, fresh, keys, classifiers=("logistic", "svm"), n_random=2, **QUIET
    )
    assert list(table.columns) == [
        *("classifier", "layer", "n_neurons", "accuracy", "random_accuracy"),
        *("control_accuracy", "majority_accuracy"),
    ]
    assert list(zip(table.classifier, table.layer, strict=True)) == [
        *(("logistic", 0), ("logistic", 1), ("svm", 0), ("svm", 1))
    ]
    (x, y), (new, gold) = (read(c, "mlp.hook_post") for c in (train, fresh))
    chosen = keys.union()
    for row in named_rows(table):
        units = chosen[chosen[:, 0] == row.layer, 1]
        assert row.n_neurons == len(units) > 0
        want = judged(
            (x[:, row.layer, units], y),
            (new[:, row.layer, units], gold),
            svm=row.classifier == "svm",
        )[0]
        assert row.accuracy == pytest.approx(want, abs=1.01 / len(gold))
        assert row.majority_accuracy == pytest.approx((gold == np.bincount(y).argmax()).mean())
        assert 0 <= row.random_accuracy <= 1


def test_a_layer_without_key_neurons_answers_the_majority(
    tiny: Model, train: Corpus, fresh: Corpus, weak: KeyNeurons
):
    table = gl.probe_layers(tiny, train, fresh, weak, n_random=0, **QUIET).set_index("layer")
    assert list(table.n_neurons) == [8, 0]
    assert table.accuracy[1] == table.majority_accuracy[1]
    assert table.accuracy[0] != table.accuracy[1]
    assert table.random_accuracy.isna().all(), "no draws"
    for bad, told in ((("tree",), "'tree'"), ((), "none")):
        with pytest.raises(GrammarLensError, match=rf"{told}.*logistic, svm"):
            gl.probe_layers(tiny, train, fresh, weak, classifiers=bad, **QUIET)


# Directions -----------------------------------------------------------------------------------


def test_spans_of_outgoing_weights(tiny: Model, keys: KeyNeurons):
    found = gl.key_subspaces(tiny, keys.top(3), n_random=4, seed=1)
    assert found.labels == LABELS
    assert (found.n_neurons == 3).all()
    assert found.random_effective_rank.shape == (4, 4)
    weights = [output_weight(tiny, layer).detach().double().numpy() for layer in range(N_LAYERS)]
    for i, label in enumerate(LABELS):
        rows = np.stack([weights[la][u] for la, u in keys.top(3)[label]])
        values = np.linalg.svd(rows, compute_uv=False)
        share = values / values.sum()
        entropy = np.exp(-(share * np.log(share)).sum())
        assert found.effective_rank[i] == pytest.approx(entropy, rel=1e-5)
    np.testing.assert_allclose(np.diag(found.cosine), 1, atol=1e-6)
    again = gl.key_subspaces(tiny, keys.top(3), n_random=4, seed=1)
    np.testing.assert_array_equal(again.random_cosine, found.random_cosine)


def test_labels_with_the_same_neurons_span_the_same(tiny: Model, weak: KeyNeurons):
    found = gl.key_subspaces(tiny, weak.top(2), n_random=30)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
    assert found.random_cosine[:, 0, 1].mean() < 0.7
    assert found.pairs().p_value.max() < 0.1
    empty = replace(weak, sets={**weak.sets, "DET": weak["DET"].top(0)})
    assert np.isnan(gl.key_subspaces(tiny, empty, n_random=1).cosine[0, 1])


def test_without_their_directions_probes_read_what_is_left(
    tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons, read: Any
):
    """Layer 0's residual stream, with and without the span of the key neurons' weights."""
    found = gl.erasure(tiny, train, fresh, keys.top(2), layer=0, n_random=3, **QUIET)
    (x, y), (new, gold) = (read(c, "hook_resid_post") for c in (train, fresh))
    x, new = x[:, 0], new[:, 0]
    units = keys.top(2).union()
    units = units[units[:, 0] == 0, 1]
    assert found.rank == len(units) > 0
    directions = output_weight(tiny, 0).detach().double().numpy()[units]
    basis = np.linalg.qr(directions.T)[0]
    left = [v - v @ basis @ basis.T for v in (x, new)]
    for got, (a, b) in ((found.accuracy, (x, new)), (found.key_removed_accuracy, left)):
        assert got == pytest.approx(judged((a, y), (b, gold))[0], abs=1.01 / len(gold))
    assert len(found.random_removed_accuracies) == 3
    majority = (gold == np.bincount(y).argmax()).mean()
    assert found.majority_accuracy == pytest.approx(majority)
    assert found.leace_accuracy < found.accuracy
    whole = gl.erasure(tiny, train, fresh, keys.top(2), n_random=0, **QUIET)
    assert whole.rank == len(keys.top(2).union()), "neurons of both layers write to the last"
    assert whole.random_removed_accuracies == ()


def test_neurons_that_write_everywhere_leave_nothing(
    tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons
):
    """All of a layer's 48 neurons span the 32 dimensions: the probe is left with the majority."""
    every = Neurons(
        "DET", "neuron", np.zeros(N_UNITS, np.int64), np.arange(N_UNITS), np.ones(N_UNITS)
    )
    all_ = replace(keys, sets={x: replace(every, name=x) for x in LABELS})
    found = gl.erasure(tiny, train, fresh, all_, n_random=1, **QUIET)
    assert found.rank == D_MODEL
    assert found.key_removed_accuracy == found.majority_accuracy
    assert found.random_removed_accuracies == (found.majority_accuracy,)
    one = replace(keys, sets={x: replace(every, name=x).top(1) for x in LABELS})
    kept = gl.erasure(tiny, train, fresh, one, n_random=1, **QUIET)
    assert kept.rank == 1
    assert kept.key_removed_accuracy > found.key_removed_accuracy


def test_key_units_that_write_nothing(tiny: Model, train: Corpus, fresh: Corpus, keys: KeyNeurons):
    elsewhere = replace(keys, origin=replace(keys.origin, site="resid_post"))
    message = "these are units of 'resid_post', and only neurons have outgoing weights"
    with pytest.raises(GrammarLensError, match=message):
        gl.key_subspaces(tiny, elsewhere)
    with pytest.raises(GrammarLensError, match=message):
        gl.erasure(tiny, train, fresh, elsewhere, **QUIET)
    late = replace(keys, sets={x: keys[x].in_layer(1) for x in LABELS})
    with pytest.raises(GrammarLensError, match="there is no key neuron in layers 0 to 0"):
        gl.erasure(tiny, train, fresh, late, layer=0, **QUIET)
