"""Predictions after a prompt and along a text, checked against the model's own logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import grammar_lens as gl
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.own_text import TextActivations

PROMPT = "The old dog"
ALL = [(layer, i) for layer in (0, 1) for i in range(48)]


@pytest.fixture(scope="module")
def lexicon(tiny: Model, bank: gl.Treebank) -> Lexicon:
    return gl.fit_lexicon(tiny, bank["train"])


def likelihoods(model: Model, text: str) -> np.ndarray:
    """P(token | text so far) at every token, straight from the logits."""
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids)[0]
    return logits.double().softmax(-1).numpy()


def test_probabilities_are_the_logits_times_the_lexicon(tiny: Model, lexicon: Lexicon) -> None:
    found = gl.next_word(tiny, f"{PROMPT} ", ALL, doses=(0, 0.5, 1), lexicon=lexicon)
    assert found.doses == (0, 0.5, 1)
    for row, dose in enumerate(found.doses):
        with gl.lesion(tiny, ALL, dose=dose):
            p = likelihoods(tiny, PROMPT)[-1]
        np.testing.assert_allclose(found.probability[row], p @ lexicon.probability, rtol=1e-5)
        best = int(p.argmax())
        assert tiny.tokenizer.decode([best]) in found.tokens
    assert not np.allclose(found.probability[0], found.probability[2])
    table = found.to_frame()
    assert list(table.columns) == ["label", "intact", "dose 0.5", "dose 1", "change"]
    np.testing.assert_allclose(table["change"], table["dose 1"] - table["intact"])
    assert table["intact"].is_monotonic_decreasing
    tokens = found.tokens_frame()
    assert tokens.loc[0, "token"] == found.tokens[0]
    assert found.value == "zero", "means of bare addresses are not known"


def test_without_a_lesion_there_is_one_column(tiny: Model, lexicon: Lexicon) -> None:
    found = gl.next_word(tiny, PROMPT, lexicon=lexicon)
    assert list(found.to_frame().columns) == ["label", "intact"]
    assert "lesion" not in repr(found)


def test_a_planted_neuron_moves_the_tag_it_writes(tiny: Model, lexicon: Lexicon) -> None:
    down = tiny.original_model.model.layers[1].mlp.down_proj.weight
    noun = lexicon.labels.index("NOUN")
    helps = int(np.argmax(gl.output_contrast(tiny, lexicon.count)[noun, 1]))
    value = float(gl.activations(tiny, PROMPT, (1, helps)).values[-1, 0])
    saved = down.data[:, helps].clone()
    down.data[:, helps] *= 40 * np.sign(value)
    try:
        found = gl.next_word(tiny, PROMPT, (1, helps), lexicon=lexicon)
    finally:
        down.data[:, helps] = saved
    change = found.to_frame().set_index("label")["change"]
    assert change["NOUN"] < -0.001
    assert change.idxmin() == "NOUN"


def test_a_lexicon_is_counted_on_the_embedded_treebank_by_default(reference: Model) -> None:
    found = gl.next_word(reference, "The old man", doses=())
    assert found.labels == gl.fit_lexicon(reference, gl.load_treebank()["train"]).labels
    assert found.to_frame()["label"][0] in ("VERB", "AUX")


def test_a_text_is_read_token_by_token(tiny: Model, lexicon: Lexicon) -> None:
    text = "The old dog sleeps near the fire."
    found = gl.read_text(tiny, text, "0.1, 1.2", lexicon=lexicon)
    assert "".join(found.tokens) == text
    ids = tiny.tokenizer(text).input_ids
    intact = likelihoods(tiny, text)
    with gl.lesion(tiny, "0.1, 1.2"):
        lesioned = likelihoods(tiny, text)
    for row, p in enumerate((intact, lesioned)):
        nll = -np.log(p[np.arange(len(ids) - 1), ids[1:]])
        np.testing.assert_allclose(found.nll[row], nll, rtol=1e-5)
        np.testing.assert_allclose(found.probability[row], p[1:] @ lexicon.probability, rtol=1e-5)
    frame = found.to_frame()
    assert list(frame["token"]) == list(found.tokens)
    np.testing.assert_allclose(frame["nll_change"], found.nll[1] - found.nll[0])
    noun = found.labels.index("NOUN")
    change = found.probability[1, :, noun] - found.probability[0, :, noun]
    np.testing.assert_allclose(frame["NOUN_change"], change)


def test_a_long_text_is_read_in_parts(
    tiny: Model, lexicon: Lexicon, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gl.read_text(tiny, "The old dog sleeps near the fire.", lexicon=lexicon)
    monkeypatch.setattr("grammar_lens.lesions.read_text._PLACES", 3)
    parts = gl.read_text(tiny, "The old dog sleeps near the fire.", lexicon=lexicon)
    np.testing.assert_allclose(parts.nll, whole.nll, rtol=1e-6)
    assert not parts.is_lesioned
    assert "nll_change" not in parts.to_frame()


def test_texts_that_cannot_be_read(tiny: Model, lexicon: Lexicon) -> None:
    for text, message in ((" ", "text is empty"), ("dog " * 2000, "reads")):
        with pytest.raises(GrammarLensError, match=message):
            gl.read_text(tiny, text, lexicon=lexicon)
    with pytest.raises(GrammarLensError, match="prompt is empty"):
        gl.next_word(tiny, " ", lexicon=lexicon)
    with pytest.raises(GrammarLensError, match=r"0\.48 does not exist"):
        gl.next_word(tiny, PROMPT, "0.48", lexicon=lexicon)


def test_activations_are_those_of_the_models_cache(tiny: Model) -> None:
    text = "The old dog sleeps."
    found = gl.activations(tiny, text, ["1.7", (0, 3)])
    ids = tiny.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        _, cache = tiny.run_with_cache(ids)
    for column, (layer, index) in enumerate([(1, 7), (0, 3)]):
        theirs = cache[f"blocks.{layer}.mlp.hook_post"][0, 1:, index].numpy()
        np.testing.assert_allclose(found.values[:, column], theirs, rtol=1e-5)
    assert list(found.to_frame().columns) == ["token", "1.7", "0.3"]
    assert "".join(found.tokens) == text
    with gl.lesion(tiny, "1.7"):
        assert not gl.activations(tiny, text, "1.7").values.any()


def test_a_lesion_by_address_is_that_of_a_set(tiny: Model) -> None:
    before = likelihoods(tiny, PROMPT)
    with gl.lesion(tiny, ["1.7", (0, 3)]):
        cut = likelihoods(tiny, PROMPT)
    with gl.lesion(tiny, Neurons.at(["0.3", "1.7"]), value="zero"):
        assert np.array_equal(likelihoods(tiny, PROMPT), cut)
    assert not np.array_equal(before, cut)
    assert np.array_equal(likelihoods(tiny, PROMPT), before)
    with (
        pytest.raises(GrammarLensError, match="mean activation"),
        gl.lesion(tiny, "1.7", value="mean"),
    ):
        pytest.fail("the lesion opened")


def test_a_first_token_without_bos_is_no_peak() -> None:
    values = np.array([[-90.0, 0.5], [1.0, -2.0], [3.0, 1.0]], np.float32)
    found = TextActivations(
        "m", ("a", "b", "c"), Neurons.at(np.array([[0, 1], [1, 2]])), values, alone=True
    )
    assert found.peaks.tolist() == [2, 1]
    assert replace(found, alone=False).peaks.tolist() == [0, 1]
    assert replace(found, tokens=("a",), values=values[:1]).peaks.tolist() == [0, 0]
    assert "+3 at 'c'" in repr(found)
    assert "largest 3<" in found._repr_html_()
