"""The explorer: it computes what the study computes, leaks no lesion, and works in a real browser."""

import json
import queue
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from changed_runs import change_record, of_an_earlier_version
from processes import Running, start
from small_runs import write_beginnings
from traces import traces_of
from typed import present
from watched_pages import serious, watched_tab

import grammar_lens as gl
from grammar_lens.errors import GrammarLensError
from grammar_lens.explorer import app, background, explored_run, pieces
from grammar_lens.explorer.app import make_app, serve
from grammar_lens.explorer.controls import ADDRESS, clicked, cut_of
from grammar_lens.explorer.explored_run import ExploredRun
from grammar_lens.explorer.page import layout
from grammar_lens.explorer.pictures import heatmap, profile
from grammar_lens.explorer.ranked_scores import KEPT
from grammar_lens.explorer.view import View, default_view, view_of
from grammar_lens.figures.style import number
from grammar_lens.generation.writing import Written, write_on
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.lesions.prepared import ready
from grammar_lens.model.about import Model, context_length
from grammar_lens.model.forward import next_token_logits
from grammar_lens.neurons.examples import QUANTILES
from grammar_lens.runs.pipeline import run_step
from grammar_lens.runs.run import Run, load_run
from grammar_lens.runs.settings import Config
from grammar_lens.selectivity.registry import SCORES

PROMPT = "The old man"
LABELS = ("NOUN", "VERB", "ADJ", "DET")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model on a few sentences, as far as the examples."""
    folder = tmp_path_factory.mktemp("made")
    write_beginnings(folder, train=80, test=12)
    config = Config(
        train=f"{folder}:train",
        fresh=f"{folder}:test",
        labels=LABELS,
        replicates=0,
        top_k=12,
        out=folder / "run",
        show_progress=False,
    )
    run = None
    for step in ("collect", "score", "select", "examples"):
        run = run_step(step, config, run, lambda _text: None)
    return folder / "run"


@pytest.fixture
def stored(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def settled(run: Run) -> ExploredRun:
    """A session that has loaded what it can."""
    session = ExploredRun(run)
    session.load()
    session._model._made.exception()
    session._vocabulary._made.exception()
    return session


@pytest.fixture(scope="module")
def session(made: Path) -> ExploredRun:
    loaded = settled(load_run(made))
    assert loaded.message == ""
    assert loaded.is_settled
    assert loaded.can_write
    assert loaded.can_tell_tags
    return loaded


@pytest.fixture
def model(session: ExploredRun) -> Model:
    """The session's own model, which no other thread uses now."""
    return session._model.get()


def changed(stored: Path, change: Callable[[dict[str, Any]], object]) -> Run:
    """The run with its record changed."""
    change_record(stored, change)
    return load_run(stored)


class TestScores:
    def test_those_that_need_no_new_pass_its_own_first(self, session: ExploredRun) -> None:
        moments = {m.name for m in SCORES.values() if m.needs == "moments"}
        assert session.methods("word")[0] == "correlation"
        assert set(session.methods("word")) == moments
        assert session.methods("next")[0] == "attribution_contrast"
        assert set(session.methods("next")) == {*moments, "attribution", "attribution_contrast"}

    @pytest.mark.parametrize("position", ["word", "next"])
    def test_they_are_what_gl_score_and_select_give(
        self, session: ExploredRun, position: str
    ) -> None:
        run = session.run
        for method in session.methods(position):
            scores = gl.score(run.evidence(position), method)
            assert np.array_equal(session.scores(position, method).values, scores.values, True)
            keys = session.keys(position, method)
            expected = gl.select(scores, 12)
            assert {x: list(keys[x]) for x in keys} == {x: list(expected[x]) for x in expected}

    def test_the_run_s_own_keys_are_those_it_stored(self, session: ExploredRun) -> None:
        assert session.keys("word", "correlation") is session.run.keys_at("word")

    def test_some_are_kept_and_no_more(self, session: ExploredRun) -> None:
        first = session.scores("word", "cohens_d")
        assert session.scores("word", "cohens_d") is first
        for method in session.methods("word"):
            session.scores("word", method)
        assert len(session._ranked) == KEPT

    def test_what_the_run_does_not_have_is_refused(self, session: ExploredRun) -> None:
        with pytest.raises(GrammarLensError, match="'auroc' cannot be computed from what the run"):
            session.scores("word", "auroc")
        with pytest.raises(GrammarLensError, match=r"'middle'.*word, next"):
            session.labels("middle")

    def test_a_run_without_key_neurons_is_refused(self, stored: Path) -> None:
        (stored / "key_neurons.csv").unlink()
        with pytest.raises(GrammarLensError, match=r"key_neurons\.csv.*`grammar-lens select"):
            ExploredRun(load_run(stored))


class TestNeurons:
    def test_the_first_of_a_label(self, session: ExploredRun) -> None:
        first = session.first("next", "attribution_contrast", "VERB", 3)
        assert list(first) == list(session.run.keys["VERB"].top(3))
        assert first.mean is not None

    def test_a_label_without_key_neurons(self, stored: Path) -> None:
        of_an_earlier_version(stored)
        table = pd.read_csv(stored / "key_neurons.csv")
        there = (table.label != "NOUN") | (table.position != "word")
        table[there].to_csv(stored / "key_neurons.csv", index=False)
        with pytest.raises(GrammarLensError, match="NOUN has no key neurons by correlation"):
            ExploredRun(load_run(stored)).first("word", "correlation", "NOUN", 3)

    def test_picked_ones_have_their_means(self, session: ExploredRun) -> None:
        picked = session.picked("word", "correlation", " 7.12, 0.3;7.12\n1.0 ")
        assert list(picked) == [(7, 12), (0, 3), (1, 0)]
        assert picked.name == "picked"
        units = session.run.scores_at("word").units
        assert np.array_equal(present(picked.mean), units.mean[[7, 0, 1], [12, 3, 0]])
        assert session.picked("word", "correlation", "7.12").name == "7.12"

    @pytest.mark.parametrize(
        "text", ["7", "7.", ".3", "a.b", "8.0", "0.896", "-1.2", "1.2.3", "\u00b2.1", "<b>"]
    )
    def test_what_is_no_neuron(self, session: ExploredRun, text: str) -> None:
        with pytest.raises(GrammarLensError, match=r"no neuron's address|does not exist"):
            session.picked("word", "correlation", text)

    def test_none_picked(self, session: ExploredRun) -> None:
        with pytest.raises(GrammarLensError, match="No neuron is picked"):
            session.picked("word", "correlation", " , ")

    def test_its_numbers_for_every_label(self, session: ExploredRun) -> None:
        key = session.first("word", "correlation", "VERB", 5)
        moments = session.run.at("word").moments["neuron"]
        scores = session.run.scores_at("word")
        for rank, (layer, index) in enumerate(key, 1):
            found = session.neuron("word", "correlation", (layer, index)).set_index("label")
            assert list(found.index) == list(scores.labels)
            assert found.at["VERB", "rank"] == rank
            assert found.at["VERB", "score"] == key.score[rank - 1]
            row = scores.labels.index("VERB")
            assert found.at["VERB", "cohens_d"] == scores.effect[row, layer, index]
            assert found.at["VERB", "mean"] == moments.mean[row, layer, index]
            variance = moments.m2[row, layer, index] / (moments.count[row] - 1)
            assert found.at["VERB", "sd"] == pytest.approx(variance**0.5)
            assert found.at["VERB", "fires"] == moments.firing_rate()[row, layer, index]
            assert found.at["VERB", "words"] == moments.count[row]

    def test_examples_are_the_run_s_or_read_now(self, session: ExploredRun) -> None:
        key = next(iter(session.run.keys["VERB"]))
        assert session.examples("next", key) is session.run.examples["next"][key]
        at = next((7, i) for i in range(896) if (7, i) not in session.run.examples["next"])
        assert session.examples("next", at) is None
        session.read("next", at)
        found = session.examples("next", at)
        assert found is not None
        assert (found.layer, found.index, found.origin.position) == (*at, "next")
        assert session.examples("word", at) is None

    def test_reading_agrees_with_what_the_run_stored(self, session: ExploredRun) -> None:
        """With all words both read the same ones."""
        at = next(iter(session.run.keys["VERB"]))
        assert session.words("next", at) is None
        session.read("next", at)
        words, then = present(session.words("next", at)), session.run.examples["next"][at]
        assert session.examples("next", at) is then
        assert np.array_equal(np.bincount(words.classes), then.count)
        for i, quantiles in enumerate(then.quantiles):
            now = np.quantile(words.values[words.classes == i], QUANTILES)
            assert np.allclose(now, quantiles, rtol=1e-3)  # four digits are stored


class TestOwnText:
    def test_it_is_what_gl_activations_gives(self, session: ExploredRun, model: Model) -> None:
        neurons = session.picked("next", "cohens_d", "7.12, 0.3")
        read = session.own_text(PROMPT, neurons)
        expected = gl.activations(model, PROMPT, ["7.12", "0.3"])
        assert (read.names, read.tokens) == (("7.12", "0.3"), expected.tokens)
        assert np.array_equal(read.values, expected.values)

    def test_what_cannot_be_read(self, session: ExploredRun) -> None:
        one = session.picked("next", "cohens_d", "7.12")
        with pytest.raises(GrammarLensError, match="the text is empty"):
            session.own_text(" \n", one)
        with pytest.raises(GrammarLensError, match="reads 1,024: read it in parts"):
            session.own_text("word " * 2000, one)  # 10,000 characters
        many = session.picked("next", "cohens_d", ", ".join(f"0.{i}" for i in range(13)))
        with pytest.raises(GrammarLensError, match="13 neurons are picked: at most 12"):
            session.own_text(PROMPT, many)

    def test_control_tokens_are_text_too(self, session: ExploredRun, model: Model) -> None:
        one = session.picked("next", "cohens_d", "7.12")
        special = [*model.tokenizer.all_special_tokens, "<|endoftext|>", "<s>", "\x00", "\u202e"]
        for text in (f"The {' '.join(special)} man", *special):
            read = session.own_text(text, one)
            assert "".join(read.tokens) == text
            assert len(read.values) == len(read.tokens)
            assert pieces.own_text(read)

    def test_its_tokens_are_data_in_the_colour_of_their_value(self, session: ExploredRun) -> None:
        hostile = "<script>alert(1)</script>"
        read = session.own_text(hostile, session.picked("next", "cohens_d", "7.12"))
        shown = found(pieces.own_text(read), "token")
        texts = [token["children"][0]["props"]["children"] for token in shown]
        assert "".join(texts) == hostile
        (peak,) = read.peaks.tolist()
        colour = shown[peak]["children"][0]["props"]["style"]["backgroundColor"]
        assert colour.endswith(",0.55)")
        assert shown[peak]["title"] == number(float(read.values[peak, 0]), 3, plus=True)

    def test_of_a_long_text_the_numbers_are_in_the_titles(self, session: ExploredRun) -> None:
        read = session.own_text("dog " * 100, session.picked("next", "cohens_d", "7.12"))
        assert found(pieces.own_text(read), "token") == []
        assert len(found(pieces.own_text(read), "own")[0]["children"]) == len(read.tokens)


def found(parts: Any, style: str) -> list[dict[str, Any]]:
    """Properties of the elements of a class, as the browser gets them."""
    whole = json.loads(json.dumps(parts, default=lambda c: c.to_plotly_json()))

    def walk(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, list):
            for one in part:
                yield from walk(one)
        elif isinstance(part, dict):
            if part["props"].get("className") == style:
                yield part["props"]
            yield from walk(part["props"].get("children"))

    return list(walk(whole))


class TestLinks:
    """The address holds the view, and whatever it says a view comes of it."""

    LINK = (
        "#position=word&score=cohens_d&tag=DET&neuron=7.12&k=3&which=picked&picked=7.1%2C+7.2"
        "&value=zero&dose=-0.5&text=a+%3Cb%3E%26&prompt=She&tokens=7&temperature=0.5&seed=9"
    )

    def test_all_of_a_view_comes_back(self, session: ExploredRun) -> None:
        view, faults = view_of(session, self.LINK)
        assert faults == []
        assert astuple(view) == (
            *("word", "cohens_d", "DET", "7.12", 3, "picked", "7.1, 7.2", "zero", -0.5),
            *("a <b>&", "She", 7, 0.5, 9),
        )
        page = json.dumps(layout(session, view, faults), default=lambda c: c.to_plotly_json())
        for value in ("7.12", "7.1, 7.2", "a <b>&", "She"):
            assert json.dumps(value) in page

    def test_the_address_has_every_field_of_a_view(self) -> None:
        assert list(ADDRESS) == [field.name for field in fields(View)]

    @pytest.mark.parametrize("link", [None, "", "#", 5, {}, [], "#" + "a&" * 200, "#%ff=%00&=&&"])
    def test_one_that_says_nothing(self, session: ExploredRun, link: object) -> None:
        view, faults = view_of(session, link)
        assert faults == []
        assert view == default_view(session)
        assert (view.position, view.score, view.tag) == ("next", "attribution_contrast", "VERB")
        first = next(iter(session.run.keys["VERB"]))
        assert (view.neuron, view.k) == (f"{first[0]}.{first[1]}", 12)

    @pytest.mark.parametrize(
        "wrong",
        [
            *("position=middle", "score=auroc", "tag=<b>", "neuron=9.9", "neuron=x", "k=0", "k=13"),
            *("k=1.5", "which=all", "value=resample", "dose=nan", "dose=9", "tokens=1e9"),
            *("temperature=-1", "seed=" + "9" * 5000),
        ],
    )
    def test_what_this_run_does_not_have(self, session: ExploredRun, wrong: str) -> None:
        name, _, given = wrong.partition("=")
        view, faults = view_of(session, f"#{wrong}&prompt=She")
        assert view == replace(default_view(session), prompt="She")
        assert len(faults) == 1
        assert faults[0].startswith(f"{name} {given[:40]!r} (")
        shown = json.dumps(layout(session, view, faults), default=lambda c: c.to_plotly_json())
        assert "link-note" in shown

    def test_a_tag_alone_has_its_own_first_neuron(self, session: ExploredRun) -> None:
        view, _ = view_of(session, "#tag=DET")
        first = next(iter(session.run.keys["DET"]))
        assert view.neuron == f"{first[0]}.{first[1]}"


class TestTags:
    def test_they_are_probabilities_of_the_formula(
        self, session: ExploredRun, model: Model
    ) -> None:
        """P(t|c) = sum_v p(v|c) lambda(t|v), in plain NumPy."""
        key = session.run.keys["VERB"]
        ids = model.tokenizer(PROMPT, return_tensors="pt").input_ids
        lexicon = gl.fit_lexicon(model, gl.load_treebank(session.config.train), labels=LABELS)
        for found, dose in zip(session.tags(PROMPT, key), (0.0, 1.0), strict=True):
            with gl.lesion(model, key, dose=dose), torch.no_grad():
                logits = model(ids)[0, -1].double().numpy()
            p = np.exp(logits - logits.max())
            p /= p.sum()
            assert found.labels == lexicon.labels
            assert found.probability.sum() == pytest.approx(1, abs=1e-12)
            # float32 logits of a pass with another head shape
            assert found.probability == pytest.approx(p @ lexicon.probability, abs=1e-6)
            assert found.seen_mass == pytest.approx(p[lexicon.seen].sum(), abs=1e-6)
            assert found.tokens[0].probability == pytest.approx(p.max(), abs=1e-6)
            assert found.tokens[0].text == model.tokenizer.decode([int(p.argmax())])
            for token in found.tokens:
                (v,) = model.tokenizer.encode(token.text, add_special_tokens=False)
                label = lexicon.labels[lexicon.probability[v].argmax()]
                assert token.label == (label if lexicon.seen[v] else None)

    def test_they_are_the_lesion_study_s(self, session: ExploredRun, model: Model) -> None:
        """At words of a few sentences, given the text before each as a prompt."""
        keys = session.run.keys
        bank = gl.load_treebank(session.config.fresh)
        lexicon = session._vocabulary.get().lexicon
        battery, _, _ = ready(model, bank, keys, lexicon, LABELS[:2], None, 0, None, False)
        ablation = Ablation("zero", 1.5)
        outcomes = battery.run([Condition("VERB", 0, keys["VERB"], ablation)])
        spans = [(s.text, word.span) for s in bank for word in s.words]
        compared = 0
        for i, word in enumerate(outcomes.word):
            text, span = spans[word]
            prompt = text[: span[0]].rstrip() if span else ""
            if not prompt or len(prompt) == span[0]:
                continue  # the first word, and what is written without a blank before it
            found = session.tags(prompt, keys["VERB"], value="zero", dose=1.5)
            for row, one in enumerate(found):
                assert one.probability == pytest.approx(
                    outcomes.tag_probability[row, i],
                    abs=2e-6,  # rounding of float32 batches
                )
            compared += 1
            if compared == 15:
                return
        pytest.fail(f"only {compared} words could be compared")

    def test_a_dose_of_nothing_changes_nothing(self, session: ExploredRun) -> None:
        intact, lesioned = session.tags(PROMPT, session.run.keys["VERB"], dose=0.0)
        assert np.array_equal(intact.probability, lesioned.probability)
        assert intact.tokens == lesioned.tokens
        _, cut = session.tags(PROMPT, session.run.keys["VERB"])
        assert np.abs(cut.probability - intact.probability).max() > 1e-3

    def test_blanks_at_the_end_are_not_read(self, session: ExploredRun) -> None:
        plain, blanks = (
            session.tags(p, session.run.keys["VERB"])[1] for p in (PROMPT, f"{PROMPT} \n ")
        )
        assert np.array_equal(plain.probability, blanks.probability)

    @pytest.mark.parametrize("prompt", ["", "  \n"])
    def test_an_empty_prompt(self, session: ExploredRun, prompt: str) -> None:
        with pytest.raises(GrammarLensError, match="The prompt is empty"):
            session.tags(prompt, session.run.keys["VERB"])

    def test_a_prompt_beyond_the_context(self, session: ExploredRun, model: Model) -> None:
        most = context_length(model)
        with pytest.raises(GrammarLensError, match=f"at most {most:,} are allowed"):
            session.tags("dog " * (most + 5), session.run.keys["VERB"])

    def test_the_model_is_clean_after_an_exception(
        self, session: ExploredRun, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def logits() -> torch.Tensor:
            ids = model.tokenizer(PROMPT, return_tensors="pt").input_ids
            return next_token_logits(model, ids, torch.tensor([ids.shape[1] - 1]))

        before, calls = logits(), []

        def fails(*_arguments: object) -> None:
            calls.append(logits())
            if len(calls) == 2:
                raise GrammarLensError("on purpose")

        monkeypatch.setattr(explored_run, "predict", fails)
        with pytest.raises(GrammarLensError, match="on purpose"):
            session.tags(PROMPT, session.run.keys["VERB"])
        assert not torch.equal(calls[1], before)
        assert torch.equal(logits(), before)
        monkeypatch.undo()
        session.tags(PROMPT, session.run.keys["VERB"])  # the model is free again

    def test_lesions_of_several_threads_do_not_meet(self, session: ExploredRun) -> None:
        keys = session.run.keys
        asked = [(label, dose) for label in LABELS for dose in (0.0, 1.0, 2.0)]
        alone = {a: session.tags(PROMPT, keys[a[0]], dose=a[1]) for a in asked}
        with ThreadPoolExecutor(8) as pool:
            jobs = [
                (a, pool.submit(session.tags, PROMPT, keys[a[0]], dose=a[1])) for a in asked * 4
            ]
            for a, job in jobs:
                for found, expected in zip(job.result(), alone[a], strict=True):
                    assert np.array_equal(found.probability, expected.probability)


class TestText:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_it_is_what_the_model_writes(
        self, session: ExploredRun, model: Model, temperature: float
    ) -> None:
        key, settings = session.run.keys["VERB"], {"tokens": 8, "temperature": temperature}
        intact, lesioned = session.text(f"{PROMPT} ", key, dose=2.0, seed=3, **settings)
        ((expected,),) = write_on(model, [PROMPT], seed=3, **settings)
        assert intact == expected
        with gl.lesion(model, key, dose=2.0):
            ((expected,),) = write_on(model, [PROMPT], seed=3, **settings)
        assert lesioned == expected
        assert lesioned.text != intact.text
        assert intact.text[: intact.begin] == PROMPT

    def test_without_a_dose_both_are_the_same(self, session: ExploredRun) -> None:
        intact, lesioned = session.text(
            PROMPT, session.run.keys["VERB"], dose=0.0, tokens=8, temperature=1.0
        )
        assert intact == lesioned

    def test_settings_out_of_range(self, session: ExploredRun) -> None:
        key = session.run.keys["VERB"]
        with pytest.raises(GrammarLensError, match="Tokens to write: 0, expected 1 to 200"):
            session.text(PROMPT, key, tokens=0)
        with pytest.raises(GrammarLensError, match="Temperature: -1, expected 0"):
            session.text(PROMPT, key, temperature=-1.0)
        with pytest.raises(GrammarLensError, match="The prompt is empty"):
            session.text(" ", key)

    def test_no_room_for_what_is_to_be_written(self, session: ExploredRun, model: Model) -> None:
        most = context_length(model)
        prompt = "dog " * (most - 20)
        session.tags(prompt, session.run.keys["VERB"])
        with pytest.raises(GrammarLensError, match=rf"{most - 40:,}.*when 40"):
            session.text(prompt, session.run.keys["VERB"], tokens=40)


def test_a_program_that_ends_waits_for_what_is_loading(tmp_path: Path) -> None:
    """Python would end the thread within torch, which aborts the program with exit code 134."""
    code = (
        "import pathlib, runpy, sys, time\n"
        "background = runpy.run_path(sys.argv[1])['Background']\n"
        "def make():\n    time.sleep(0.5)\n    pathlib.Path(sys.argv[2]).touch()\n"
        "background('a file', make).start()\n"
    )
    path = tmp_path / "made"
    subprocess.run([sys.executable, "-c", code, background.__file__, path], check=True)
    assert path.is_file()


class TestWhatIsMissing:
    def test_nothing_is_told_before_it_is_there(self, made: Path) -> None:
        session = ExploredRun(load_run(made))
        assert session.message == "Loading the model 'reference-9m' …"
        assert not session.is_settled
        assert not session.can_write
        with pytest.raises(GrammarLensError, match="is still loading"):
            session.tags(PROMPT, session.run.keys["VERB"])
        with pytest.raises(GrammarLensError, match="the model 'reference-9m' is still loading"):
            session.text(PROMPT, session.run.keys["VERB"])

    def test_without_the_model_the_run_can_be_seen(self, stored: Path) -> None:
        run = changed(stored, lambda record: record["config"].update(model="./nowhere"))
        session = settled(run)
        assert session.is_settled
        assert session.message.startswith(
            "The model './nowhere' is not available: no model folder at"
        )
        assert not session.can_write
        assert not session.can_tell_tags
        with pytest.raises(GrammarLensError, match=r"the model '\./nowhere' is not available"):
            session.text(PROMPT, session.run.keys["VERB"])
        assert session.scores("next", "cohens_d").method == "cohens_d"
        assert len(session.neuron("next", "cohens_d", (0, 0))) == len(LABELS)

    def test_another_model_of_that_name(self, stored: Path) -> None:
        session = settled(changed(stored, lambda record: record["model"].update(weights="0" * 64)))
        assert "its weights are not those that the run was made with" in session.message

    def test_without_the_treebank_it_can_still_write(self, stored: Path) -> None:
        run = changed(stored, lambda record: record["config"].update(train="gone.conllu"))
        session = settled(run)
        assert session.message.startswith("The training data 'gone.conllu' is not available")
        assert session.can_write
        assert not session.can_tell_tags
        key = session.run.keys["VERB"]
        assert session.text(PROMPT, key, tokens=2)[0].text.startswith(PROMPT)
        with pytest.raises(
            GrammarLensError, match=r"the training data 'gone\.conllu' is not available"
        ):
            session.tags(PROMPT, key)

    def test_a_treebank_that_has_changed(self, stored: Path) -> None:
        run = changed(
            stored, lambda record: record["treebank"]["train"].update(fingerprint="0" * 64)
        )
        assert "it has changed since the run was made" in settled(run).message


class TestTheControls:
    CONTROLS = {  # noqa: RUF012
        "position": "next",
        "score": "attribution_contrast",
        "tag": "VERB",
        "k": "3",
        "which": "first",
        "chosen": "7.1",
        "picked": "7.1, 7.2",
        "value": "zero",
        "dose": -0.5,
    }

    @pytest.mark.parametrize(
        ("which", "told"),
        [
            ("first", "3 VERB neurons set to zero at dose -0.5"),
            ("chosen", "neuron 7.1 set to zero at dose -0.5"),
            ("picked", "2 picked neurons set to zero at dose -0.5"),
        ],
    )
    def test_the_lesion_they_describe(self, session: ExploredRun, which: str, told: str) -> None:
        cut = cut_of(session, {**self.CONTROLS, "which": which})
        assert cut.description == told
        assert cut.ablation == {"value": "zero", "dose": -0.5}

    def test_what_a_click_chooses(self) -> None:
        cell = {"curveNumber": 0, "x": 31, "y": 4, "z": 0.1}
        assert clicked({"points": [cell]}) == "4.31"
        of_several = {**cell, "x": 47.5, "customdata": 33}
        assert clicked({"points": [of_several]}) == "4.33"
        circle = {"curveNumber": 1, "x": 12, "y": 7, "customdata": [1, 0.5, 0.3]}
        assert clicked({"points": [circle]}) == "7.12"
        assert clicked(None) is None
        assert clicked({"points": []}) is None

    def test_the_chosen_neuron_is_marked(self, session: ExploredRun) -> None:
        scores = session.scores("word", "correlation")
        figure = heatmap(scores, "VERB", (3, 50))
        assert (traces_of(figure)[-1].x, traces_of(figure)[-1].y) == ((50,), (3,))
        assert len(traces_of(heatmap(scores, "VERB", None))) == len(traces_of(figure)) - 1

    def test_the_profile_shows_the_tag_in_view(self, session: ExploredRun) -> None:
        figure = profile(session.scores("word", "correlation"), "VERB")
        full = [trace.name for trace in traces_of(figure) if trace.opacity is None]
        assert full == ["VERB"]

    def test_texts_are_data(self) -> None:
        hostile = "<script>alert(1)</script>"
        shown = pieces.texts("x", Written(hostile, 3, True), Written("", 0, False))
        assert hostile[:3] in json.dumps(
            shown.to_plotly_json(), default=lambda c: c.to_plotly_json()
        )


def test_a_wide_layer_has_cells_that_name_their_strongest(session: ExploredRun) -> None:
    """`clicked` relies on this: in a binned heatmap the index comes with the cell."""
    from grammar_lens.figures.heatmaps import layer_neuron_heatmap

    figure = layer_neuron_heatmap(session.scores("word", "correlation"), "VERB", bins=100)
    assert np.asarray(traces_of(figure)[0].customdata).shape == (8, 100)


@pytest.fixture(scope="module")
def client(made: Path) -> Any:
    return make_app(load_run(made)).server.test_client()


class TestTheServer:
    @pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost:8050", "localhost"])
    def test_it_answers_to_this_machine(self, client: Any, host: str) -> None:
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 200
        assert '<html lang="en">' in answer.text
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example:8050"},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": "localhost@evil.example"},
            {"Host": "127.0.0.1:8050", "Origin": "http://evil.example"},
            {"Host": "127.0.0.1:8050", "Origin": "http://127.0.0.1:9999"},
            {"Host": "127.0.0.1:8050", "Origin": "null"},
        ],
    )
    def test_it_refuses_foreign_names_and_pages(self, client: Any, headers: dict[str, str]) -> None:
        for path in ("/", "/_dash-layout", "/assets/explorer.js"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 403
            assert "answers only to 127.0.0.1 and localhost" in answer.text

    def test_everything_comes_from_here(self, client: Any) -> None:
        page = client.get("/", headers={"Host": "localhost"}).text
        sources = [part.split('"')[0] for part in page.split('src="')[1:]]
        sources += [part.split('"')[0] for part in page.split('href="')[1:]]
        assert sources
        assert all(source.startswith("/") for source in sources)

    @pytest.mark.parametrize("path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py"])
    def test_no_other_file_is_served(self, client: Any, path: str) -> None:
        answer = client.get(f"/assets/{path}", headers={"Host": "localhost"})
        assert "make_app" not in answer.text

    def test_a_port_in_use(self, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(GrammarLensError, match=rf"{port}.*--port 0"):
                serve(load_run(made), port=port, open_browser=False)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("port", [-1, 65_536])
    def test_no_port_at_all(self, made: Path, port: int) -> None:
        with pytest.raises(GrammarLensError, match=f"port {port} cannot be used"):
            serve(load_run(made), port=port, open_browser=False)

    def test_the_browser_is_shown_the_page(
        self, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown: queue.Queue[str] = queue.Queue()

        class Server:
            port = 8123

            def serve_forever(self) -> None:
                pass

        monkeypatch.setattr(app, "_server", lambda *_arguments: Server())
        monkeypatch.setattr(app.webbrowser, "open", shown.put)
        serve(load_run(made), port=0)
        assert shown.get(timeout=10) == "http://127.0.0.1:8123/"
        assert "is at http://127.0.0.1:8123/ (Ctrl-C ends it)" in capsys.readouterr().out
        serve(load_run(made), port=0, open_browser=False)
        assert shown.empty()

    def test_without_dash(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(app, "find_spec", lambda _name: None)
        with pytest.raises(GrammarLensError, match=r'pip install "grammar-lens\[explorer\]"'):
            make_app(load_run(made))


# In a browser ---------------------------------------------------------------------------------


def serve_run(run: Path) -> None:
    """Serves a run until it is interrupted."""
    serve(load_run(run), port=0, open_browser=False)


def started(run: Path, folder: Path) -> tuple[Running, str]:
    """A server of a run in its own process, and where it is."""
    server = start(serve_run, run, folder=folder)
    server.until(lambda: "\n" in server.stdout)
    return server, server.stdout.split(" is at ")[1].split()[0]


@pytest.fixture(scope="module")
def url(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of the run; Ctrl-C ends it."""
    server, url = started(made, tmp_path_factory.mktemp("server"))
    yield url
    server.interrupt()
    assert (server.ended(30), len(server.stdout.splitlines())) == (0, 1)


@contextmanager
def visited(browser: Any, url: str) -> Iterator[Any]:
    """The page with a heatmap and a neuron; any error or foreign request fails the test."""
    with watched_tab(browser, url.partition("#")[0], width=1400) as page:
        page.set_default_timeout(60_000)
        page.goto(url)
        page.wait_for_selector("#heatmap .main-svg")
        try:
            page.wait_for_selector("#neuron-scores table")
        except Exception as error:
            chosen, shown = page.locator("#chosen").input_value(), page.locator("body").inner_text()
            told = f"no neuron is shown; chosen {chosen!r}: {shown[:800]}"
            raise AssertionError(told) from error
        yield page


@pytest.fixture
def opened(browser: Any, url: str) -> Iterator[Any]:
    """The page with a distribution, too."""
    with visited(browser, url) as page:
        page.wait_for_selector("#distribution table")
        yield page


def expect(page: Any, selector: str) -> Any:
    from playwright.sync_api import expect as playwright_expect

    playwright_expect.set_options(timeout=30_000)
    return playwright_expect(page.locator(selector))


def radio(page: Any, name: str) -> Any:
    return page.get_by_role("radio", name=name, exact=True)


@pytest.mark.browser
def test_browser_another_tag_changes_every_view(opened: Any) -> None:
    assert opened.locator("#headline").inner_text().startswith("P(VERB) is ")
    expect(opened, "#k-told").to_have_text("12")
    before = opened.locator("#chosen").input_value()
    radio(opened, "DET").click()
    expect(opened, "#headline").to_contain_text("P(DET) is ")
    expect(opened, "#headline").to_contain_text("12 DET neurons set to the mean")
    expect(opened, "#heatmap-title").to_have_text("Every neuron's score for DET")
    expect(opened, "#key-list h3").to_have_text("Key neurons of DET")
    expect(opened, "#distribution tr.marked th").to_have_text("DET")
    expect(opened, "#neuron-scores tr.marked th").to_have_text("DET")
    assert opened.locator("#chosen").input_value() != before
    expect(opened, "#tag-choices [aria-checked=true]").to_have_text("DET")


@pytest.mark.browser
def test_browser_the_dose_moves_the_distribution(opened: Any) -> None:
    lesioned = "#distribution tr.marked td:nth-child(4)"
    intact = opened.locator("#distribution tr.marked td:nth-child(3)").inner_text()
    full = opened.locator(lesioned).inner_text()
    assert full != intact
    dose = opened.locator("#dose")
    for _ in range(4):
        dose.press("ArrowLeft")
    expect(opened, "#dose-told").to_have_text("0")
    expect(opened, lesioned).to_have_text(intact)
    expect(opened, "#headline").to_contain_text("at dose 0")
    for _ in range(8):
        dose.press("ArrowRight")
    expect(opened, "#dose-told").to_have_text("2")
    expect(opened, lesioned).not_to_have_text(intact)
    dose.press("Home")
    expect(opened, "#dose-told").to_have_text("\u22121")


@pytest.mark.browser
def test_browser_typing_moves_the_distribution(opened: Any) -> None:
    before = opened.locator("#distribution").inner_text()
    prompt = opened.get_by_label("Prompt")
    prompt.fill("She opened the")
    expect(opened, "#distribution").not_to_have_text(before, use_inner_text=True)
    prompt.fill("")
    expect(opened, "#headline").to_contain_text("The prompt is empty")
    prompt.fill("dog " * 4000)
    expect(opened, "#headline").to_contain_text("tokens, and at most 1,024 are allowed")
    hostile = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    prompt.fill(hostile)
    expect(opened, "#headline").to_contain_text("P(VERB) is")
    opened.get_by_role("button", name="Write with and without").click()
    expect(opened, "#texts .text >> nth=0").to_contain_text(hostile)


@pytest.mark.browser
def test_browser_writes_with_and_without(opened: Any) -> None:
    opened.get_by_label("Tokens").fill("12")
    opened.get_by_label("Tokens").press("Enter")
    for _ in range(4):
        opened.locator("#dose").press("ArrowRight")
    expect(opened, "#dose-told").to_have_text("2")
    opened.get_by_role("button", name="Write with and without").click()
    expect(opened, "#texts h4 >> nth=0").to_have_text("Intact")
    expect(opened, "#texts h4 >> nth=1").to_have_text(
        "With 12 VERB neurons set to the mean at dose 2"
    )
    intact, lesioned = opened.locator("#texts .text").all_inner_texts()
    assert intact.startswith(PROMPT)
    assert lesioned.startswith(PROMPT)
    assert intact != lesioned
    expect(opened, "#write").to_be_enabled()


@pytest.mark.browser
def test_browser_chooses_and_lesions_single_neurons(opened: Any) -> None:
    button = opened.locator("#key-list button >> nth=3")
    name = button.inner_text()
    button.focus()
    button.press("Enter")
    expect(opened, "#chosen").to_have_value(name)
    expect(opened, "#neuron-scores h3").to_contain_text(f"Neuron {name}")
    expect(opened, "#chosen-note").to_have_text("no. 4 of VERB")
    expect(opened, "#key-list button[aria-pressed=true]").to_have_text(name)
    assert opened.evaluate("document.activeElement.textContent") == name  # the focus stays
    radio(opened, "the one chosen").click()
    expect(opened, "#headline").to_contain_text(f"neuron {name} set to the mean")
    assert not opened.locator("#picked").is_visible()
    radio(opened, "picked").click()
    expect(opened, "#headline").to_contain_text("No neuron is picked")
    opened.get_by_role("button", name="Add the neuron chosen").click()
    opened.locator("#key-list button >> nth=0").click()
    expect(opened, "#chosen-note").to_have_text("no. 1 of VERB")
    opened.get_by_role("button", name="Add the neuron chosen").click()
    expect(opened, "#headline").to_contain_text("2 picked neurons set to the mean")


@pytest.mark.browser
def test_browser_a_click_on_the_heatmap_chooses(opened: Any) -> None:
    box = opened.locator("#heatmap .nsewdrag").bounding_box()
    opened.mouse.click(box["x"] + box["width"] * 0.31, box["y"] + box["height"] * 0.9)
    # the lowest layer, near a third of 896 neurons
    expect(opened, "#neuron-scores h3").to_contain_text("Neuron 0.27")
    expect(opened, "#read").to_be_visible()
    opened.get_by_role("button", name="Read it now").click()
    opened.wait_for_selector("#neuron-examples .main-svg")
    expect(opened, "#read").to_be_hidden()
    expect(opened, "#neuron-scores thead").to_contain_text("logits")


@pytest.mark.browser
def test_browser_examples_of_a_key_neuron(opened: Any) -> None:
    expect(opened, "#neuron-examples .js-plotly-plot").to_have_count(2)
    expect(opened, "#neuron-examples").to_contain_text("Tokens it promotes")
    assert opened.locator("#neuron-examples li").count() == 20


@pytest.mark.browser
def test_browser_position_score_and_k_by_keyboard(opened: Any) -> None:
    radio(opened, "before the word").focus()
    opened.keyboard.press("ArrowLeft")
    expect(opened, "#position-choices [aria-checked=true]").to_have_text("at the word")
    expect(opened, "#score-list").to_have_value("correlation")
    expect(opened, "#neuron-scores h3").to_contain_text("correlation r")
    opened.locator("#score-list").select_option("cohens_d")
    expect(opened, "#neuron-scores h3").to_contain_text("Cohen's d")
    expect(opened, "#score-summary").to_contain_text("pooled standard deviation")
    expect(opened, "#key-list tbody tr").to_have_count(12)
    for _ in range(9):
        opened.locator("#k").press("ArrowLeft")
    expect(opened, "#key-list tbody tr").to_have_count(3)
    expect(opened, "#headline").to_contain_text("3 VERB neurons")
    chosen = opened.get_by_label("Neuron chosen")
    chosen.fill("9.9")
    expect(opened, "#chosen-note").to_contain_text("neuron 9.9 does not exist")


@pytest.mark.browser
def test_browser_reads_a_text_of_one_s_own(opened: Any) -> None:
    name = opened.locator("#chosen").input_value()
    expect(opened, "#own-text b").to_have_text(f"Neuron {name}")
    text = opened.get_by_label("Text", exact=True)
    hostile = "She saw <img src=x onerror=alert(3)> it"
    text.fill(hostile)
    expect(opened, "#own-text .token >> nth=0").to_contain_text("She")
    shown = opened.locator("#own-text .token > span").all_text_contents()
    assert "".join(shown) == hostile
    text.fill(" ")
    expect(opened, "#own-text").to_contain_text("Type some text")
    text.fill("word " * 2000)
    expect(opened, "#own-text").to_contain_text("reads 1,024: read it in parts")
    text.fill("The dog")
    radio(opened, "picked").click()
    opened.locator("#picked").fill("7.1 0.2")
    expect(opened, "#own-text b").to_have_count(3)
    opened.locator("#picked").fill("99.1")
    expect(opened, "#own-text").to_contain_text("neuron 99.1 does not exist")


@pytest.mark.browser
def test_browser_draws_the_density_by_tag(opened: Any) -> None:
    expect(opened, "#reading").to_contain_text("up to 5,000 training words")
    opened.get_by_role("button", name="Read it now").click()
    opened.wait_for_selector("#density .main-svg")
    expect(opened, "#read").to_be_hidden()
    expect(opened, "#density").to_contain_text("training words, each scaled to its own peak")


@pytest.mark.browser
def test_browser_the_address_holds_the_view(opened: Any, browser: Any, url: str) -> None:
    first = opened.locator("#chosen").input_value()
    beginning = opened.evaluate("navigation.currentEntry.key")
    radio(opened, "at the word").click()
    expect(opened, "#neuron-scores h3").to_contain_text("correlation r")
    radio(opened, "DET").click()
    expect(opened, "#headline").to_contain_text("12 DET neurons")
    opened.locator("#score-list").select_option("cohens_d")
    expect(opened, "#neuron-scores h3").to_contain_text("Cohen's d")
    opened.locator("#key-list button >> nth=2").click()
    expect(opened, "#chosen-note").to_have_text("no. 3 of DET")
    radio(opened, "the one chosen").click()
    radio(opened, "zero").click()
    for _ in range(2):
        opened.locator("#dose").press("ArrowLeft")
    opened.get_by_label("Prompt").fill("She & <he>")
    opened.get_by_label("Text", exact=True).fill("A text")
    name = opened.locator("#chosen").input_value()
    told = f"neuron {name} set to zero at dose 0.5"
    expect(opened, "#headline").to_contain_text(told)
    opened.wait_for_function("() => location.hash.includes('text=A+text')")
    link = opened.evaluate("location.href")
    with visited(browser, link) as other:
        expect(other, "#headline").to_contain_text(told)
        expect(other, "#chosen-note").to_have_text("no. 3 of DET")
        expect(other, "#score-list").to_have_value("cohens_d")
        expect(other, "#prompt").to_have_value("She & <he>")
        expect(other, "#text").to_have_value("A text")
        expect(other, "#own-text .token >> nth=0").to_contain_text("A")
        expect(other, "#position-choices [aria-checked=true]").to_have_text("at the word")
        assert other.evaluate("location.href") == link
    opened.get_by_role("link", name="Neuron").click()  # does not become part of the address
    assert opened.evaluate("location.href") == link
    # all the way back, each step of which would draw everything anew
    opened.evaluate("key => navigation.traverseTo(key).finished", beginning)
    expect(opened, "#neuron-scores h3").to_contain_text(f"Neuron {first}: attr")
    expect(opened, "#headline").to_contain_text("12 VERB neurons set to the mean.")
    expect(opened, "#chosen").to_have_value(first)
    expect(opened, "#prompt").to_have_value(PROMPT)
    opened.go_forward()
    expect(opened, "#position-choices [aria-checked=true]").to_have_text("at the word")


@pytest.mark.browser
def test_browser_a_link_that_asks_for_what_is_not_there(browser: Any, url: str) -> None:
    with visited(browser, f"{url}#tag=FOO&neuron=99.1&prompt=She") as page:
        expect(page, "#link-note").to_contain_text("tag 'FOO'")
        expect(page, "#link-note").to_contain_text("neuron 99.1 does not exist")
        expect(page, "#headline").to_contain_text("P(VERB) is")
        expect(page, "#prompt").to_have_value("She")


@pytest.mark.browser
def test_browser_is_accessible_and_fits(opened: Any) -> None:
    page = opened
    page.get_by_role("button", name="Write with and without").click()
    page.wait_for_selector("#texts .panel")
    radio(page, "picked").click()
    expect(page, "#headline").to_contain_text("No neuron is picked")
    for width in (1400, 420):
        page.set_viewport_size({"width": width, "height": 900})
        # what is being loaded is pale for a moment
        page.wait_for_function("() => !document.querySelector('[data-dash-is-loading=true]')")
        page.wait_for_function(f"() => document.documentElement.scrollWidth <= {width}")
        assert serious(page) == []


@pytest.mark.browser
def test_browser_without_the_model(browser: Any, stored: Path, tmp_path: Path) -> None:
    changed(stored, lambda record: record["config"].update(model="./nowhere"))
    server, url = started(stored, tmp_path)
    try:
        with visited(browser, url) as page:
            expect(page, "#state").to_contain_text("The model './nowhere' is not available")
            expect(page, "#write").to_be_disabled()
            expect(page, "#distribution").to_be_empty()
            radio(page, "DET").click()
            expect(page, "#heatmap-title").to_have_text("Every neuron's score for DET")
    finally:
        server.kill()


class TestStrangeRequests:
    """Requests that no page of ours makes are refused, and none is a fault of the server."""

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/_dash-component-suites/dash/nope.js", 404),
            ("/_dash-component-suites/nope/nope.js", 404),
            ("/_dash-component-suites/dash/..%2f..%2fsetup.py", 404),
            ("/assets/nope.css", 404),
        ],
    )
    def test_files_that_are_none(self, session: ExploredRun, path: str, code: int) -> None:
        assert make_app(session.run).server.test_client().get(path).status_code == code

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b"[]", b"null", b"\xff", b'{"output": 1}', b"[" * 100_000]
    )
    def test_callbacks_that_are_none(self, session: ExploredRun, body: bytes) -> None:
        client = make_app(session.run).server.test_client()
        sent = client.post("/_dash-update-component", data=body, content_type="application/json")
        assert 400 <= sent.status_code < 500

    def test_a_request_that_is_too_large(self, session: ExploredRun) -> None:
        client = make_app(session.run).server.test_client()
        body = b'{"output": "' + b"x" * (app.LARGEST_REQUEST + 1) + b'"}'
        sent = client.post("/_dash-update-component", data=body, content_type="application/json")
        assert sent.status_code == 413
