"""The neuron pages' numbers: packed small, and right when unpacked."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_figures import LABELS, made_moments
from made_runs import MadeRun, Page, made_examples, made_run, read_block

from grammar_lens.neurons.examples import Example, Passage
from grammar_lens.neurons.selection import select
from grammar_lens.report.neurons import LISTED, neuron_pages, ranked
from grammar_lens.report.packing import block, halves, packed, single_precision, steps, unsigned
from grammar_lens.report.page import render
from grammar_lens.report.passages import AROUND, MOST_SIGNS, examples_data
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


def through(data: Any) -> Any:
    """Data as it comes out of a block of the page."""
    return read_block(block({"data": data}))["data"]


@pytest.fixture(scope="module")
def made() -> MadeRun:
    return made_run()


@pytest.fixture(scope="module")
def page(made: MadeRun) -> Page:
    return Page(render(made))


class TestPacking:
    def test_halves_keep_three_digits_at_any_size(self) -> None:
        rng = np.random.default_rng(0)
        for size in (1e-7, 1.0, 1e9):
            values = rng.normal(0, size, 1000)
            # 11 significant bits
            np.testing.assert_allclose(through(halves(values)), values, rtol=2**-11)

    def test_halves_of_missing_infinite_and_no_numbers(self) -> None:
        got = through(halves(np.array([np.nan, np.inf, -np.inf, 2.0])))
        np.testing.assert_array_equal(got, [np.nan, np.inf, -np.inf, 2.0])
        np.testing.assert_array_equal(through(halves(np.zeros(3))), np.zeros(3))
        assert through(halves(np.zeros(0))).shape == (0,)

    def test_steps_are_equal_and_missing_ones_stay_missing(self) -> None:
        values = np.array([[0.5, -1.0], [np.nan, 1e-3]])
        got = through(steps(values))
        np.testing.assert_allclose(got, values, atol=0.5 / 32766 * 1.001)
        assert np.isnan(got[1, 0])

    @pytest.mark.parametrize(("largest", "dtype"), [(255, "u1"), (256, "u2"), (65536, "u4")])
    def test_whole_numbers_take_few_bytes(self, largest: int, dtype: str) -> None:
        found = unsigned(np.array([0, largest]))
        assert found.dtype == dtype
        assert through(found).tolist() == [0, largest]

    def test_single_precision_changes_only_arrays(self) -> None:
        values = np.array([1.5, -2.25])
        wide = {"dtype": "f8", "bdata": base64.b64encode(values.tobytes()).decode(), "shape": "2"}
        spec = {"data": [{"z": wide, "dtype": "f8", "name": "f8"}], "n": 1}
        got = single_precision(spec)
        z = got["data"][0]["z"]
        assert (z["dtype"], z["shape"]) == ("f4", "2")
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(z["bdata"]), "<f4"), values)
        assert got["data"][0]["dtype"] == "f8"
        assert got["n"] == 1

    def test_bytes_are_little_endian_and_stand_by_place(self) -> None:
        assert packed(np.array([1, 0x0203]), "u4").data == b"\x01\x03\x00\x02\x00\x00\x00\x00"

    def test_a_block_holds_arrays_anywhere_and_text_of_any_kind(self) -> None:
        rng = np.random.default_rng(1)
        first, second = rng.normal(size=(3, 4)), rng.integers(0, 70_000, (2, 2, 5))
        data = {
            "a": [{"x": packed(first, "f4")}, None],
            "</script>": unsigned(second),
            "n": "\ud83d",
        }
        text = block(data)
        assert not set("<>&") & set(text)
        got = read_block(text)
        np.testing.assert_array_equal(got["a"][0]["x"], first.astype(np.float32))
        np.testing.assert_array_equal(got["</script>"], second)
        assert got["n"] == "?"

    def test_noise_takes_no_more_than_its_information(self) -> None:
        """Normal noise in 65,533 steps, the largest 5 sd: 14.7 bits each; base64 makes 8/6 of it."""
        values = np.clip(np.random.default_rng(2).normal(size=100_000), -5, 5)
        values[0] = 5.0
        assert len(block(steps(values))) < 100_000 * 15.2 / 6


class TestLists:
    def test_ranked_is_the_order_of_the_scores_table(self) -> None:
        scores = score(made_moments(shape=(3, 40)))
        table = scores.to_frame(top=7)
        for i, label in enumerate(LABELS):
            part = table[table["label"] == label]
            got = ranked(scores.strength()[i].ravel(), 7)
            assert got.tolist() == (part["layer"] * 40 + part["index"]).tolist()

    def test_equals_come_in_order_and_what_is_not_strong_not_at_all(self) -> None:
        strength = np.array([0.0, 1.0, 2.0, 1.0, 1.0, 0.0])
        assert ranked(strength, 3).tolist() == [2, 1, 3]
        assert ranked(strength, 10).tolist() == [2, 1, 3, 4]
        assert ranked(np.zeros(4), 2).tolist() == []

    def test_every_number_of_a_neuron_comes_back(self, made: MadeRun, page: Page) -> None:
        result = made.at("next")
        scores, keys, moments = result.scores, result.keys, result.moments["neuron"]
        found = page.blocks()["neurons-next"]
        address = np.cumsum(found["address"])
        layer, index = np.divmod(address, 40)
        for name, values in (
            ("scores", scores.values),
            ("effects", scores.effect),
            ("means", moments.mean),
        ):
            # 11 significant bits
            want = values[:, layer, index].T
            np.testing.assert_allclose(found[name], want, rtol=2**-11)
        key = np.unpackbits(found["key"], axis=1)[:, :3].astype(bool)
        for c, label in enumerate(LABELS):
            chosen = set(keys[label])
            at = zip(layer.tolist(), index.tolist(), strict=True)
            assert key[:, c].tolist() == [a in chosen for a in at]
            rows = found["lists"][c]["row"]
            strongest = ranked(scores.strength()[c].ravel(), LISTED)
            assert address[rows].tolist() == strongest.tolist()
            exact = scores.values[c].ravel()[strongest]
            np.testing.assert_array_equal(found["lists"][c]["score"], exact.astype(np.float32))
        assert (found["layers"], found["units"], found["labels"]) == (3, 40, list(LABELS))

    def test_key_neurons_and_examples_beyond_the_list_have_pages_too(self, made: MadeRun) -> None:
        """A list of ten: key neurons by another sign, and a neuron with examples, are not in it."""
        result = made.at("word")
        weak = np.argsort(result.scores.strength()[0].ravel())[0]
        at = (int(weak) // 40, int(weak) % 40)
        examples = made_examples(select(result.scores, k=1))
        one = examples[next(iter(examples))]
        examples = replace(examples, by_neuron={at: replace(one, layer=at[0], index=at[1])})
        keys = select(result.scores, k=5, sign="negative")
        pages = neuron_pages(result.scores, keys, result.moments["neuron"], examples)
        address = np.cumsum(read_block(pages.block)["address"]).tolist()
        assert int(weak) in address
        assert {layer * 40 + index for label in keys for layer, index in keys[label]} <= {*address}
        assert (pages.n_examples, pages.n_neurons) == (1, len(address))

    def test_many_tags_have_shorter_lists(self) -> None:
        labels = tuple(f"T{i}" for i in range(68))
        scores = score(made_moments(labels, shape=(2, 400)))
        moments = made_moments(labels, shape=(2, 400))
        pages = neuron_pages(scores, select(scores, k=5), moments, None)
        assert pages.n_listed == 1000 * 17 * 17 // 68**2 == 62
        assert pages.examples is None

    def test_labels_that_are_not_scored_do_not_shift_the_means(self, made: MadeRun) -> None:
        result = made.at("word")
        full = result.scores
        two = Scores(
            *(full.method, LABELS[1:], full.count[1:], full.values[1:], full.effect[1:], None),
            *(full.units, full.origin),
        )
        moments = result.moments["neuron"]
        found = read_block(neuron_pages(two, select(two, k=3), moments, None).block)
        layer, index = np.divmod(np.cumsum(found["address"]), 40)
        want = moments.mean[1:, layer, index].T
        np.testing.assert_allclose(found["means"], want, rtol=2**-11)


class TestExamples:
    def test_they_come_back_with_words_values_and_places(self, made: MadeRun) -> None:
        examples = made.examples["next"]
        data = through(examples_data(examples))
        at = next(iter(examples))
        found, got = examples[at], data["neurons"]["{}.{}".format(*at)]
        np.testing.assert_allclose(got["quantiles"], found.quantiles, rtol=2**-11)
        np.testing.assert_allclose(got["contrast"], found.contrast, rtol=2**-11)
        assert got["count"].tolist() == [100, 100, 0]
        assert got["promoted"] == [[" to", 0.5], ["\n", 0.25]]
        assert got["top"] == 1
        assert got["examples"][0] == ["dog", "NOUN", 2.0, "made.conllu:7", 0, 0, 1, 2, 3, False]
        assert got["examples"][1][2] == -2.0
        assert got["values"].tolist() == [1, 2, 3, 4, 5, -1, -2, -3, -4, -5]
        assert data["passages"] == [[" The", " old", " dog", " sleeps", "."]]  # kept once

    def test_long_sentences_are_cut_around_the_word_and_long_tokens_too(
        self, made: MadeRun
    ) -> None:
        examples = made.examples["word"]
        at = next(iter(examples))
        tokens = tuple(f" {i}" for i in range(500))
        tokens = (*tokens[:200], "w" * (MOST_SIGNS + 1), *tokens[201:])
        values = np.arange(500.0)
        example = Example(Passage(tokens, "x"), 200, (200, 201), tokens[200], "NOUN", 200.0, values)
        start = replace(example, token=-1, span=(0, 1), word="0", value=np.nan)
        found = replace(examples[at], top=(example,), bottom=(start,))
        data = examples_data(replace(examples, by_neuron={at: found}))
        middle, first = data["passages"]
        assert middle[0] == f" {200 - AROUND}"
        assert middle[-1] == f" {200 + AROUND}"
        assert middle[AROUND] == "w" * MOST_SIGNS + f"… ({MOST_SIGNS + 1} characters)"
        assert (first[0], first[-1]) == (" 0", f" {AROUND}")
        of_middle, of_start = next(iter(data["neurons"].values()))["examples"]
        assert of_middle[5:] == [200 - AROUND, 200, 200, 201, True]
        assert of_start[5:] == [0, -1, 0, 1, True]
        assert of_start[2] is None
        packed_values = through(next(iter(data["neurons"].values()))["values"])
        assert packed_values[: 2 * AROUND + 1].tolist() == values[160:241].tolist()


def test_tables_lead_to_neuron_pages(page: Page) -> None:
    leads = [str(a["href"]) for t, a in page.tags if t == "a" and "#neuron-" in str(a.get("href"))]
    assert "#neuron-word-1.17" in leads
    assert "#neuron-next-1.17" in leads
    assert len(leads) == 78


def test_the_section_says_what_it_holds(made: MadeRun, page: Page) -> None:
    # "word" and "next" are made alike, every neuron of the 120 is somewhere listed
    assert "each tag’s 120 strongest neurons, 120 in all, 1 of them with the sentences" in page.text  # noqa: RUF001
    none = Page(render(made_run(examples={})))
    assert "120 in all. Read at" in none.text
    assert {"neurons-word", "neurons-next"} <= set(none.blocks())
    assert "examples-word" not in none.blocks()
    empty = Page(render(made_run(results={}, study=None, examples={})))
    assert "so none can be looked up" in empty.text
    assert "neuron-panel" not in {a.get("id") for _, a in empty.tags}


def test_half_a_surrogate_pair_does_not_stop_the_page() -> None:
    run = made_run(model="half \udc00")
    words = made_examples(run.at("word").keys, (" a", " \ud83d", " b", " c"))
    run.examples["word"] = words
    html = render(run)
    assert "half ?" in Page(html).text
    assert Page(html).blocks()["examples-word"]["passages"] == [[" a", " ?", " b", " c"]]
    html.encode()
