"""Features of sentences: the activations themselves, and everything scikit-learn expects."""

import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import grammar_lens as gl
from grammar_lens import KeyNeuronFeatures, KeyNeurons
from grammar_lens.corpus.bank import Treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.runs import features
from grammar_lens.runs.pipeline import run_step
from grammar_lens.runs.settings import Config


def cloned(made: KeyNeuronFeatures) -> KeyNeuronFeatures:
    twin = clone(made)
    assert isinstance(twin, KeyNeuronFeatures)
    return twin


SENTENCES = [
    "The old dog sleeps near the warm fire.",
    "She can run.",
    "We do not like the cold rain, but they never forget it.",
    "Anna and Peter",
]
NEURONS = np.array([[1, 7], [0, 40], [1, 3], [0, 0]])


@pytest.fixture(scope="module")
def keys(tiny: Model, bank: Treebank) -> KeyNeurons:
    moments = gl.collect(
        tiny, bank, labels=("DET", "NOUN", "VERB"), position="word", show_progress=False
    )
    return gl.select(gl.score(moments["neuron"]), k=6)


def read_by_hand(model: Model, text: str) -> np.ndarray:
    """Activations [token, neuron] of `NEURONS` in one sentence read alone, BOS left out."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
    columns = [cache[f"blocks.{la}.mlp.hook_post"][0, 1:, i].numpy() for la, i in NEURONS]
    return np.stack(columns, 1)


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("mean", lambda x: x.mean(0)),
        ("max", lambda x: x.max(0)),
        ("first", lambda x: x[0]),
        ("last", lambda x: x[-1]),
    ],
)
def test_features_are_the_pooled_activations(tiny: Model, pooling: str, pooled: Any) -> None:
    """Against sentences read one by one; batches and their padding move them by rounding alone."""
    expected = np.stack([pooled(read_by_hand(tiny, text)) for text in SENTENCES])
    for budget in (None, 1, 30):
        made = KeyNeuronFeatures(tiny, NEURONS, pooling=pooling, batch_tokens=budget)
        found = made.fit_transform(SENTENCES)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_fit_is_read_in_halves(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = KeyNeuronFeatures(tiny, NEURONS).fit(SENTENCES)
    expected = made.transform(SENTENCES)
    add, failed = features._Pooled.add, []

    def full_at_first(reader: Any, layer: int, seen: Any, words: Any) -> Any:
        if layer == 1 and len(set(words.tolist())) > 2:
            failed.append(layer)
            raise MemoryError
        return add(reader, layer, seen, words)

    monkeypatch.setattr(features._Pooled, "add", full_at_first)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        found = made.transform(SENTENCES)
    assert failed
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_the_chosen_neurons_alone(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader never copies all units of a layer."""
    widths = []
    values = features.Seen.values

    def watched(seen: Any) -> Any:
        widths.append(seen.flat.shape[1])
        return values(seen)

    monkeypatch.setattr(features.Seen, "values", watched)
    KeyNeuronFeatures(tiny, NEURONS).fit_transform(SENTENCES)
    assert widths == [2, 2]


# Neurons --------------------------------------------------------------------------------------


def test_key_neurons_become_one_column_each(tiny: Model, keys: KeyNeurons) -> None:
    made = KeyNeuronFeatures(tiny, keys, k=3).fit(SENTENCES)
    names = list(made.get_feature_names_out())
    assert len(names) == made.n_features_out_ == len(keys.top(3).union())
    assert [tuple(a) for a in made.neurons_[:3]] == list(keys["DET"].top(3))
    for name, (layer, index) in zip(names, made.neurons_, strict=True):
        owners, address = name.split(":")
        assert address == f"{layer}.{index}"
        assert owners.split("+") == [x for x in keys if (layer, index) in set(keys[x].top(3))]
    assert any("+" in name for name in names), "some neuron is key to several labels"
    assert len(cloned(made).set_params(k=None).fit(SENTENCES).neurons_) == len(keys.union())


def test_other_kinds_of_neurons(tiny: Model, keys: KeyNeurons) -> None:
    verbs = KeyNeuronFeatures(tiny, keys["VERB"], k=2).fit(SENTENCES)
    assert list(verbs.get_feature_names_out()) == [f"VERB:{a}.{b}" for a, b in keys["VERB"].top(2)]
    plain = KeyNeuronFeatures(tiny, NEURONS.tolist()).fit(SENTENCES)
    assert list(plain.get_feature_names_out()) == ["1.7", "0.40", "1.3", "0.0"]
    residual = replace(keys["VERB"], site="resid_post", index=np.arange(6), layer=np.repeat(0, 6))
    found = KeyNeuronFeatures(tiny, residual).fit_transform(SENTENCES)
    assert not np.allclose(found, plain.transform(SENTENCES)[:, :1])


def test_a_run_gives_its_key_neurons(reference: Model, tmp_path: Path) -> None:
    bank = tmp_path / "words.conllu"
    rows = [("The", "DET"), ("dog", "NOUN"), ("sleeps", "VERB")], [("A", "DET"), ("cat", "NOUN")]
    fresh = [("One", "DET"), ("man", "NOUN")], [("No", "DET"), ("day", "NOUN")]
    for path, sentences in ((bank, [*rows, *rows]), (tmp_path / "fresh.conllu", fresh)):
        lines = [
            "".join(f"{i}\t{form}\t_\t{tag}{'	_' * 6}\n" for i, (form, tag) in enumerate(s, 1))
            for s in sentences
        ]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    config = Config(
        train=str(bank),
        fresh=str(tmp_path / "fresh.conllu"),
        labels=("DET", "NOUN"),
        positions=("word",),
        replicates=0,
        top_k=4,
        out=tmp_path / "run",
        show_progress=False,
    )
    run = run_step("collect", config, None, print)
    for step in ("score", "select"):
        run_step(step, config, run, print)
    by_path = KeyNeuronFeatures(reference, str(tmp_path / "run")).fit(SENTENCES)
    by_run = KeyNeuronFeatures(reference, run).fit(SENTENCES)
    by_keys = KeyNeuronFeatures(reference, run.keys_at("word")).fit(SENTENCES)
    for other in (by_run, by_keys):
        np.testing.assert_array_equal(other.neurons_, by_path.neurons_)
    assert len(by_path.neurons_) >= 4
    assert by_path.feature_names_[0].startswith("DET")


# scikit-learn ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conjoined() -> tuple[list[str], np.ndarray]:
    """Sentences, and whether each has a coordinating conjunction."""
    test = gl.load_treebank()["test"].sample(240, seed=0)
    has = [any(w.labels["upos"] == "CCONJ" for w in s.words) for s in test]
    return [s.text for s in test], np.array(has)


@pytest.fixture(scope="module")
def conjunctions(reference: Model) -> KeyNeurons:
    """The neurons that answer to conjunctions and to adjectives, from other sentences."""
    train = gl.load_treebank()["train"].sample(500, seed=0)
    moments = gl.collect(reference, train, position="word", show_progress=False)
    return gl.select(gl.score(moments["neuron"]), k=3).only(["CCONJ", "ADJ"])


def test_neurons_of_conjunctions_find_sentences_with_one(
    reference: Model, conjoined: tuple[list[str], np.ndarray], conjunctions: KeyNeurons
) -> None:
    """And do not tell what the sentences do not have: labels in another order."""
    texts, has = conjoined
    made: Any = make_pipeline(
        KeyNeuronFeatures(reference, conjunctions["CCONJ"], pooling="max"),
        StandardScaler(),
        LogisticRegression(),
    )
    majority = max(has.mean(), 1 - has.mean())
    assert majority < 0.8
    assert cross_val_score(made, texts, has, cv=3).mean() > 0.9
    exchanged = np.random.default_rng(0).permutation(has)
    read = made[0].fit_transform(texts)  # the same whatever the classes: read once for all folds
    assert cross_val_score(made[1:], read, exchanged, cv=3).mean() < majority + 0.05


def test_a_grid_over_k_and_pooling(
    reference: Model, conjoined: tuple[list[str], np.ndarray], conjunctions: KeyNeurons
) -> None:
    texts, has = conjoined
    made = make_pipeline(KeyNeuronFeatures(reference, conjunctions), LogisticRegression())
    grid: Any = GridSearchCV(
        made,
        {"keyneuronfeatures__k": [1, 3], "keyneuronfeatures__pooling": ["max", "first"]},
        cv=2,
        error_score=cast(Any, "raise"),  # annotated as a number
    )
    grid.fit(np.array(texts[:80]), has[:80])
    assert grid.best_params_["keyneuronfeatures__pooling"] == "max"
    best = grid.best_estimator_[0]
    assert best.model_ is reference
    assert best.n_features_out_ == len(conjunctions.top(best.k).union())
    assert float(grid.score(texts[80:160], has[80:160])) > 0.8


def test_pandas_in_and_out(tiny: Model, keys: KeyNeurons) -> None:
    series = pd.Series(SENTENCES, index=[5, 3, 9, 1])
    made = KeyNeuronFeatures(tiny, keys, k=2).set_output(transform="pandas")
    frame = made.fit_transform(series)
    assert list(frame.index) == [5, 3, 9, 1]
    assert list(frame.columns) == list(made.get_feature_names_out())
    plain = KeyNeuronFeatures(tiny, keys, k=2).fit_transform(tuple(SENTENCES))
    np.testing.assert_array_equal(frame.to_numpy(), plain)
    assert isinstance(cloned(made).fit_transform(SENTENCES), pd.DataFrame), "clones keep it"


def test_clones_share_the_model_and_are_not_fitted(tiny: Model, keys: KeyNeurons) -> None:
    made = KeyNeuronFeatures(tiny, keys, k=2, pooling="last", batch_tokens=64).fit(SENTENCES)
    twin = cloned(made)
    assert (twin.model, twin.neurons) == (tiny, keys)
    assert (twin.k, twin.pooling, twin.batch_tokens) == (2, "last", 64)
    with pytest.raises(NotFittedError):
        twin.transform(SENTENCES)


def test_a_pickle_holds_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made = KeyNeuronFeatures("reference-9m", [[0, 1], [7, 5]]).fit(SENTENCES)
    expected = made.transform(SENTENCES)
    stored = pickle.dumps(made)
    assert len(stored) < 4000
    again = pickle.loads(stored)
    np.testing.assert_array_equal(again.transform(SENTENCES), expected)
    assert again.model_ is not made.model_
    unfitted = pickle.loads(pickle.dumps(clone(made)))
    np.testing.assert_array_equal(unfitted.fit_transform(SENTENCES), expected)


WORDS = ("the", "a", "dog", "cat", "old", "man", "sleeps", "runs", "near", "fire", "and", "she")


class OfRows(KeyNeuronFeatures):
    """The transformer behind rows of numbers, which scikit-learn's checks are made of.

    A number becomes a word, a row a sentence; what is wrong with a row is scikit-learn's to say.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def fit(self, X: Any, y: Any = None) -> "OfRows":
        super().fit(self._texts(X, reset=True), y)
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().transform(self._texts(X, reset=False))

    def _texts(self, X: Any, *, reset: bool) -> list[str]:
        rows: Any = validate_data(self, X, reset=reset)
        return [" ".join(WORDS[int(abs(v) * 97) % len(WORDS)] for v in row) for row in rows]


class TakesRows(KeyNeuronFeatures):
    """The transformer as if it took rows of numbers."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.fixture
def any_warning() -> Iterator[None]:
    """Allow warnings of scikit-learn's own checks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def checked(estimator: KeyNeuronFeatures, **settings: Any) -> dict[str, set[str]]:
    """Names of scikit-learn's checks by what came of them."""
    found: dict[str, set[str]] = {}
    for result in check_estimator(estimator, on_fail=None, on_skip=None, **settings):
        found.setdefault(result["status"], set()).add(result["check_name"])
    return found


NUMBERS = "it fits rows of numbers, and the transformer takes sentences"
MESSAGE = "it wants a message about rows of numbers, and gets one about sentences"
NOT_FOR_SENTENCES = {
    **dict.fromkeys(
        (
            *("check_fit_score_takes_y", "check_estimators_overwrite_params"),
            *("check_dont_overwrite_parameters", "check_estimators_fit_returns_self"),
            *("check_readonly_memmap_input", "check_n_features_in_after_fitting"),
            *("check_positive_only_tag_during_fit", "check_estimators_dtypes"),
            *("check_dtype_object", "check_pipeline_consistency", "check_estimators_pickle"),
            *("check_f_contiguous_array_estimator", "check_transformer_data_not_an_array"),
            *("check_transformer_general", "check_methods_sample_order_invariance"),
            *("check_methods_subset_invariance", "check_dict_unchanged", "check_fit_idempotent"),
            *("check_fit_check_is_fitted", "check_n_features_in", "check_fit2d_predict1d"),
        ),
        NUMBERS,
    ),
    **dict.fromkeys(
        (
            *("check_complex_data", "check_estimators_empty_data_messages"),
            *("check_estimators_nan_inf", "check_estimator_sparse_tag"),
            *("check_estimator_sparse_array", "check_estimator_sparse_matrix"),
            *("check_fit2d_1sample", "check_fit2d_1feature"),
        ),
        MESSAGE,
    ),
}


def test_scikit_learn_knows_that_it_takes_sentences(tiny: Model) -> None:
    made = KeyNeuronFeatures(tiny, NEURONS)
    with pytest.warns(SkipTestWarning, match="requires input  of type"):
        assert checked(made) == {"passed": {"check_estimator_cloneable"}}
    tags = made.__sklearn_tags__()
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.requires_fit
    assert not tags.no_validation


@pytest.mark.usefixtures("any_warning")
def test_the_checks_that_do_not_apply_are_those_of_rows_of_numbers(tiny: Model) -> None:
    found = checked(TakesRows(tiny, NEURONS), expected_failed_checks=NOT_FOR_SENTENCES)
    assert "failed" not in found
    assert found["xfail"] == set(NOT_FOR_SENTENCES)
    assert len(found["passed"]) >= 11


PICKLE = "it pickles the parameters, and a loaded model cannot be pickled"
NOT_FOR_LOADED_MODELS = dict.fromkeys(
    ("check_estimators_overwrite_params", "check_estimators_pickle"), PICKLE
)


@pytest.mark.usefixtures("any_warning")
def test_all_checks_pass_once_rows_are_made_sentences(tiny: Model) -> None:
    found = checked(OfRows(tiny, NEURONS), expected_failed_checks=NOT_FOR_LOADED_MODELS)
    assert "failed" not in found
    assert found["xfail"] == set(NOT_FOR_LOADED_MODELS)
    assert found["passed"] | found["xfail"] >= set(NOT_FOR_SENTENCES)
    assert found.get("skipped", set()) <= {"check_array_api_input"}


@pytest.mark.usefixtures("any_warning")
def test_checks_that_pickle_pass_for_a_model_by_name(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_hf().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    for name in NOT_FOR_LOADED_MODELS:
        getattr(estimator_checks, name)("OfRows", OfRows(str(tmp_path), NEURONS))


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("She sleeps.", "expected a list of sentences, got one string: give strings"),
        ([["She", "sleeps"]], "sentence 0 is list, expected a string: join words"),
        (["ok", None], "sentence 1 is NoneType, expected a string"),
        (np.array([["a"], ["b"]]), r"got ndarray of shape \(2, 1\): give strings"),
        (np.array([1.0, 2.0]), "sentence 0 is float64, expected a string"),
        (iter(["a"]), "expected a list of sentences, got list_iterator"),
        ([], r"got 0 sample\(s\)"),
    ],
)
def test_what_is_no_list_of_sentences(tiny: Model, X: Any, message: str) -> None:
    made = KeyNeuronFeatures(tiny, NEURONS)
    with pytest.raises(GrammarLensError, match=message):
        made.fit(X)
    with pytest.raises(GrammarLensError, match=message):
        made.fit(SENTENCES).transform(X)


@pytest.mark.parametrize("nothing", ["", "<s>"])
def test_a_sentence_without_tokens(tiny: Model, nothing: str) -> None:
    made = KeyNeuronFeatures(tiny, NEURONS).fit(SENTENCES)
    with pytest.raises(GrammarLensError, match=r"sentence 1 has no tokens \('.*'\): leave it out"):
        made.transform(["She sleeps.", nothing])


def test_a_sentence_beyond_the_context(tiny: Model) -> None:
    made = KeyNeuronFeatures(tiny, NEURONS).fit(SENTENCES)
    long = "the dog " * 200
    with pytest.warns(RuntimeWarning, match="1 of 2 sentences are longer than the context of 128"):
        found = made.transform(["She sleeps.", long])
    alone = made.transform(["She sleeps."])
    np.testing.assert_allclose(found[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neurons": None}, "neurons are NoneType, expected key neurons, a run"),
        ({"neurons": [1, 2]}, "neurons are list, expected"),
        ({"neurons": [[0.5, 1.0]]}, "neurons are list, expected"),
        ({"neurons": [[0, 48]]}, "neuron 0.48 does not exist: .* has 2 layers of 48 neurons"),
        ({"neurons": [[-1, 0]]}, r"neuron -1\.0 does not exist"),
        ({"neurons": [[0, 1], [0, 1]]}, "stands twice among the neurons"),
        ({"neurons": np.zeros((0, 2), int)}, "no neurons to read: the sets are empty"),
        ({"pooling": "median"}, "pooling is 'median', expected one of mean, max, last, first"),
        ({"k": 0}, "k is 0, expected 1 or more"),
        ({"batch_tokens": 2.5}, "batch_tokens is 2.5, expected 1 or more"),
        ({"neurons": "no/such/run"}, "no/such/run is no run directory"),
    ],
)
def test_settings_that_do_not_go(tiny: Model, settings: dict[str, Any], message: str) -> None:
    made = KeyNeuronFeatures(tiny, **{"neurons": NEURONS, **settings})
    with pytest.raises(ValueError, match=message):
        made.fit(SENTENCES)


def test_neurons_of_another_model(reference: Model, keys: KeyNeurons) -> None:
    with pytest.raises(
        GrammarLensError, match=r"the neurons are of .* and the model is reference-9m"
    ):
        KeyNeuronFeatures(reference, keys).fit(SENTENCES)
    origin = replace(keys.origin, model="someone/reference-9m")
    KeyNeuronFeatures(reference, replace(keys, origin=origin)).fit(SENTENCES)


def test_neurons_without_names_stay_without(tiny: Model) -> None:
    made = Neurons("", "neuron", np.array([1]), np.array([2]), np.zeros(1))
    found = KeyNeuronFeatures(tiny, made).fit(SENTENCES)
    assert list(found.get_feature_names_out()) == ["1.2"]
