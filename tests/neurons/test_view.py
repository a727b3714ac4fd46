"""One neuron looked at from all sides, a run to work in, and what completes after a tab."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from small_runs import write_beginnings

import grammar_lens as gl
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.address import parse_address
from grammar_lens.neurons.examples import Example, NeuronExamples, Passage, TokenEffect
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.view import NeuronView, scores_of
from grammar_lens.neurons.view_html import AROUND, MOST_SIGNS
from grammar_lens.passes.moments import Moments
from grammar_lens.runs.pipeline import run_all
from grammar_lens.runs.run import Run, load_run
from grammar_lens.runs.session import Session
from grammar_lens.runs.settings import Config

pytestmark = pytest.mark.usefixtures("few_figures", "plain_reports")

LABELS = ("DET", "NOUN", "PRON", "VERB")
PROMPT = "The old man"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the real embedded model on the beginning of the embedded treebank."""
    folder = tmp_path_factory.mktemp("inspected")
    write_beginnings(folder, train=70, test=30)
    config = Config(
        train=f"{folder}:train",
        fresh=f"{folder}:test",
        labels=LABELS,
        replicates=0,
        top_k=6,
        example_neurons=2,
        probe_k=3,
        shams=0,
        values=("none",),
        out=folder / "run",
        show_progress=False,
    )
    run_all(config, resume=False, say=print)
    return folder / "run"


@pytest.fixture
def run(made: Path) -> Run:
    return load_run(made)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model or a treebank fails."""

    def refuse(*_: object, **__: Any) -> None:
        raise AssertionError("this must not be loaded")

    monkeypatch.setattr("grammar_lens.runs.run.load_model", refuse)
    monkeypatch.setattr("grammar_lens.runs.session.load_treebank", refuse)


# Addresses and scores --------------------------------------------------------------------------


def test_ways_to_write_an_address():
    given: Any
    for given in ((5, 123), ("5.123",), (" 5:123 ",), ("5, 123",), (np.int64(5), np.int64(123))):
        assert parse_address(*given) == (5, 123)
    for given in (("5",), (5,), ("5.1.2",), ("-1.3",), ("5", 3), ("five.3",)):
        with pytest.raises(GrammarLensError, match="no neuron's address"):
            parse_address(*given)


def moments_of(values: np.ndarray, classes: np.ndarray, labels: tuple[str, ...]) -> Moments:
    """Moments of activations [word, layer, neuron]."""
    groups = [values[classes == i] for i in range(len(labels))]
    return Moments(
        labels=labels,
        count=np.array([len(g) for g in groups], float),
        mean=np.stack([g.mean(0) for g in groups]),
        m2=np.stack([g.var(0) * len(g) for g in groups]),
        fired=np.stack([(g > 0).sum(0).astype(float) for g in groups]),
        mean_abs=np.abs(values).mean(0),
        origin=Origin("a-model", "a-bank", "upos", "word", "neuron"),
    )


def test_scores_of_a_planted_neuron():
    """Neuron 1.3 is raised by 2 sd at verbs: first of their key neurons, and of no other label's."""
    rng = np.random.default_rng(2)
    values, classes = rng.normal(size=(900, 2, 5)), np.repeat([0, 1, 2], 300)
    values[classes == 1, 1, 3] += 2
    labels = ("NOUN", "VERB", "ADJ")
    moments = moments_of(values, classes, labels)
    scores = gl.score(moments, "correlation")
    keys = select(scores, k=2, sign="positive")
    table = scores_of(1, 3, scores, moments, keys.only(("NOUN", "VERB"))).set_index("label")
    here = values[:, 1, 3]
    assert table.index.tolist() == list(labels)
    assert table.loc["VERB", "rank"] == 1
    assert math.isnan(table.loc["NOUN", "rank"])
    assert math.isnan(table.loc["ADJ", "rank"]), "a label without key neurons"
    for i, label in enumerate(labels):
        mine = here[classes == i]
        want = {
            "score": np.corrcoef(here, classes == i)[0, 1],
            "mean": mine.mean(),
            "sd": mine.std(ddof=1),
            "fires": (mine > 0).mean(),
            "count": 300,
            "cohens_d": scores.effect[i, 1, 3],
        }
        for name, value in want.items():
            assert table.loc[label, name] == pytest.approx(value, rel=1e-9), name
    for layer, index in ((2, 0), (0, 5), (-1, 0)):
        with pytest.raises(GrammarLensError, match=r"does not exist: a-model has 2 layers of 5 ne"):
            scores_of(layer, index, scores, moments, keys.only(("NOUN", "VERB")))


# A view ----------------------------------------------------------------------------------------


def view_of(tokens: tuple[str, ...], *, at: int = 1, **changes: Any) -> NeuronView:
    """A view with one example at each end, of the same passage."""
    origin = Origin("m<o>del", "ba&nk", "upos", "word", "neuron")
    n = len(tokens)
    values = np.where(np.arange(n) == at, 4.0, -1.0)
    example = Example(
        Passage(tokens, "fi'le:1"), at, (at, at + 1), tokens[at], "NO<UN", 4.0, values
    )
    found = NeuronExamples(
        layer=5,
        index=123,
        labels=("NO<UN", "VERB"),
        count=np.array([3, 4]),
        quantiles=np.zeros((2, 7)),
        top=(example,),
        bottom=(replace(example, value=-1.0, token=0),),
        contrast=np.array([0.5, np.nan]),
        promoted=(TokenEffect("<b>", 1.5),),
        suppressed=(TokenEffect(" -->", -1.5),),
        origin=origin,
    )
    table = pd.DataFrame(
        {
            "label": ("NO<UN", "VERB", "ADJ"),
            "score": [0.7, -0.1, 0.0],
            "rank": [3.0, np.nan, np.nan],
            "cohens_d": [2.0, -2.0, 0.0],
            "mean": [1.0, 0.0, 0.5],
            "sd": [1.0, 1.0, 1.0],
            "fires": [0.9, 0.1, 0.5],
            "count": [3, 4, 0],
        }
    )
    fields = {"methods": {"word": "corr<>"}, "tables": {"word": table}, "examples": {"word": found}}
    return NeuronView(
        model="m<o>del", treebank="ba&nk", site="neuron", layer=5, index=123, **fields | changes
    )


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "\u202e\u05e9",
    "🙂",
    "",
)


def test_texts_are_escaped():
    page = Page(view_of(HOSTILE)._repr_html_())
    assert set(page.tags) == {
        *("div", "b", "h4", "table", "thead", "tbody", "tr", "th", "td", "code", "span", "small"),
        *("p", "br"),
    }
    assert set(page.attributes) == {"style", "scope", "title", "dir"}
    for text in ("<script>alert(1)</script>", "m<o>del", "ba&nk", "NO<UN", "corr<>", "<b>", "🙂"):
        assert text in page.text


def test_colours_say_how_active_each_token_is():
    html = view_of(("a", "b", "c"))._repr_html_()
    spans = re.findall(r"<span style='([^']*)' title='([^']*)'>(\w)</span>", html)
    assert [(text, title) for _, title, text in spans[:3]] == [
        *(("a", "-1"), ("b", "+4"), ("c", "-1"))
    ]
    assert "rgba(213,94,0,0.55)" in spans[1][0], "the strongest"
    assert "rgba(0,114,178,0.14)" in spans[0][0], "a quarter of it, and negative"
    assert [("outline" in style, "700" in style) for style, *_ in spans] == [
        *((False, False), (True, True), (False, False)),
        *((True, False), (False, True), (False, False)),
    ], "the token read is framed, the word is bold"


def test_long_passages_are_cut_around_the_word():
    tokens = tuple(f" t{i}" for i in range(200))
    html = view_of((*tokens[:100], "x" * 500, *tokens[101:]), at=100)._repr_html_()
    shown = [int(i) for i in re.findall(r"> t(\d+)</span>", html)]
    assert (min(shown), max(shown)) == (0, 100 + AROUND)
    assert 100 - AROUND in shown
    assert "x" * (MOST_SIGNS + 1) not in html
    assert f"{'x' * MOST_SIGNS}…" in html
    assert len(repr(view_of((*tokens[:100], "x" * 500), at=100))) < 600


def test_what_cannot_be_known_is_left_empty():
    nothing = view_of(("a", "b"), examples={})
    assert nothing.to_frame()["contrast"].isna().all()
    table = nothing.tables["word"].assign(score=np.nan)
    page = Page(view_of(("a", "b"), tables={"word": table}, examples={})._repr_html_())
    assert "nan" not in page.text


def test_a_view_in_words_and_as_a_table():
    view = view_of(("a", "b", "c"))
    assert repr(view).splitlines() == [
        "Neuron 5.123 of m<o>del on ba&nk",
        "word: corr<> NO<UN +0.7 (key neuron 3), VERB -0.1, ADJ +0",
        "  top     b NO<UN +4",
        "  bottom  b NO<UN -1",
        "promotes '<b>'; suppresses ' -->'",
    ]
    frame = view.to_frame()
    assert list(frame.columns) == [
        *("position", "label", "score", "rank", "cohens_d", "mean", "sd", "fires", "count"),
        "contrast",
    ]
    assert frame["contrast"].tolist()[0] == 0.5
    assert frame["contrast"].isna().tolist() == [False, True, True]
    assert frame["position"].tolist() == ["word"] * 3


# A neuron of a run -----------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
def test_a_stored_neuron_needs_no_model(run: Run):
    at = next(iter(run.keys_at("word")["VERB"]))
    view = run.neuron(*at, "word")
    assert view.examples["word"] is run.examples["word"][at]
    assert (view.layer, view.index) == at
    assert run.neuron(view.name, position="word").to_frame().equals(view.to_frame())
    table = view.tables["word"].set_index("label")
    assert table.loc["VERB", "rank"] == 1
    scores = run.scores_at("word")
    assert table.loc["VERB", "score"] == scores["VERB"][at]
    assert table["count"].tolist() == run.moments.at("word")["neuron"].count.tolist()


@pytest.mark.usefixtures("untouched")
def test_only_what_is_stored(run: Run):
    stored = {at for examples in run.examples.values() for at in examples}
    at = next((0, i) for i in range(896) if (0, i) not in stored)
    view = run.neuron(*at, read=False)
    assert view.examples == {}
    assert list(view.tables) == ["word", "next"]
    with pytest.raises(AssertionError, match="must not be loaded"):
        run.neuron(*at)
    elsewhere = next(at for at in run.examples["word"] if at not in run.examples["next"])
    assert list(run.neuron(*elsewhere, read=False).examples) == ["word"]


def test_examples_are_read_where_there_are_none(run: Run):
    session = Session(Config.of(run, show_progress=False), print)
    stored = {at for examples in run.examples.values() for at in examples}
    at = next((3, i) for i in range(896) if (3, i) not in stored)
    view = run.neuron(*at)
    assert list(view.examples) == ["word", "next"]
    for position, found in view.examples.items():
        want = gl.examples_of(
            session.model,
            session.train,
            [at],
            position=position,
            lexicon=session.lexicon,
            show_progress=False,
        )[at]
        assert [e.word for e in found.top] == [e.word for e in want.top]
        np.testing.assert_allclose(found.contrast, want.contrast)
    known = next(iter(run.examples["word"]))
    again = run.neuron(*known, "word", read=True).examples["word"]
    assert again is not run.examples["word"][known]
    assert [e.word for e in again.top] == [e.word for e in run.examples["word"][known].top]


@pytest.mark.usefixtures("untouched")
def test_neurons_that_do_not_exist(run: Run):
    given: Any
    for given in ((8, 0), ("8.0",), (0, 896), (-1, 5)):
        with pytest.raises(
            GrammarLensError, match="does not exist: reference-9m has 8 layers of 896"
        ):
            run.neuron(*given)
    with pytest.raises(GrammarLensError, match="did not read 'after'"):
        run.neuron(0, 0, "after")


def test_words_that_have_changed_since(made: Path, tmp_path: Path):
    """Examples of other words than the run's would be shown as the run's."""
    run = load_run(made)
    run.record["treebank"]["train"]["fingerprint"] = "0" * 64
    with pytest.raises(GrammarLensError, match=r"the train data .*:train has changed since"):
        run.neuron(3, 5, read=True)


# The model of a run, and its lesions -----------------------------------------------------------


def test_the_model_is_loaded_once(run: Run):
    assert run.model is run.model
    with torch.no_grad():
        ids = run.model.tokenizer(PROMPT, return_tensors="pt").input_ids
        torch.testing.assert_close(run.model(ids), gl.load_model()(ids))


@pytest.fixture
def lent(run: Run, reference: Any) -> Run:
    """A run whose model is one that was loaded before."""
    run.model = reference
    return run


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(model.tokenizer(PROMPT, return_tensors="pt").input_ids)


@pytest.mark.parametrize(
    ("changes", "k", "where"),
    [
        ({}, None, None),
        ({"dose": 0.5, "value": "zero"}, None, None),
        ({}, 2, None),
        ({}, None, "word"),
    ],
)
def test_a_lesion_by_name(lent: Run, changes: dict[str, Any], k: int | None, where: str | None):
    intact = logits(lent.model)
    key = (lent.keys if where is None else lent.keys_at(where))["VERB"]
    with gl.lesion(lent.model, key if k is None else key.top(k), **changes):
        want = logits(lent.model)
    with lent.lesion("VERB", k=k, position=where, **changes) as model:
        assert model is lent.model
        got = logits(model)
    assert torch.equal(got, want)
    assert not torch.equal(got, intact)
    assert torch.equal(logits(lent.model), intact), "it has healed"


def test_a_lesion_that_draws_from_other_words(lent: Run):
    intact = logits(lent.model)
    with lent.lesion("VERB", value="resample") as model:
        assert not torch.equal(logits(model), intact)


def test_lesions_that_cannot_be(lent: Run, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GrammarLensError, match=r"'VREB'.*DET, NOUN"):
        lent.lesion("VREB").__enter__()
    with pytest.raises(GrammarLensError, match="did not read 'after'"):
        lent.lesion("VERB", position="after").__enter__()
    with pytest.raises(GrammarLensError, match="half"):
        lent.lesion("VERB", value="half").__enter__()
    with pytest.raises(GrammarLensError, match="'VERB' has no key neurons in"):
        lent.lesion("VERB", k=0).__enter__()


def test_text_with_and_without_a_lesion(lent: Run):
    greedy = {"max_new_tokens": 8, "do_sample": False, "verbose": False}
    assert lent.generate(PROMPT, tokens=8) == lent.model.generate(PROMPT, **greedy)
    with lent.lesion("VERB", dose=4.0) as model:
        want = model.generate(PROMPT, **greedy)
    assert lent.generate(PROMPT, "VERB", dose=4.0, tokens=8) == want
    assert want != lent.generate(PROMPT, tokens=8)


def test_a_model_that_is_no_longer_there(made: Path):
    run = load_run(made)
    run.record["config"]["model"] = "./gone"
    with pytest.raises(GrammarLensError, match="gone"):
        run.model  # noqa: B018


# How a run shows itself ------------------------------------------------------------------------


def test_a_run_in_words(run: Run):
    assert repr(run) == (
        f"Run {run.path}: reference-9m on {run.config['train']}; done: collect, score, select, "
        "examples, course, layers, probe, report"
    )


@pytest.mark.usefixtures("untouched")
def test_a_run_as_html(run: Run, monkeypatch: pytest.MonkeyPatch):
    page = Page(run._repr_html_())
    assert "✓ examples" in page.text
    assert "\N{EN DASH} lesion" in page.text
    assert f"{run.summary['probe']['accuracy']:.3f}" in page.text
    assert f"majority {run.summary['probe']['majority_accuracy']:.3f}" in page.text
    assert str(run.path / "report.html") in page.text
    assert "double dissociations" not in page.text, "there were no lesions"
    summary = dict(run.summary)
    summary["lesion"] = {
        "labels": ["A", "B"],
        "matrix": [[0.5, 0.0], [-0.1, None]],
        "k": 7,
        "position": "next",
        "diagonal_mean": 0.25,
        "off_diagonal_mean": -0.01,
        "sham_mean": [[0.1, 0.0], [0.0, 0.3]],
        "crossed_pairs": [["A", "B", True]],
        "n_possible_pairs": 1,
        "p_value": None,
        "n_shams": 20,
    }
    monkeypatch.setattr(Run, "summary", summary)
    page = Page(run._repr_html_())
    assert "+0.250 nats" in page.text
    assert "other tags \N{MINUS SIGN}0.010, its shams +0.200" in page.text
    assert "1 of 1 pairs" in page.text
    assert "+0.50" in page.text
    assert "7 neurons of the row's tag lesioned" in page.text
    assert "key neurons by layer, read at next" in page.text
    run.path = run.path / "<b>"
    assert "b" in Page(run._repr_html_()).tags
    assert "no report yet" in Page(run._repr_html_()).text
    assert "<b>/" not in run._repr_html_()
    assert "&lt;b&gt;" in run._repr_html_()


# What completes after a tab --------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["jedi", "plain"])
def complete(request: pytest.FixtureRequest) -> Iterator[Callable[..., list[str]]]:
    """IPython's own completer, with some names to complete."""
    shell = InteractiveShell.instance()
    shell.Completer.use_jedi = request.param

    def texts(code: str, **names: Any) -> list[str]:
        shell.user_ns.update(names)
        with provisionalcompleter():
            return [found.text for found in shell.Completer.completions(code, len(code))]

    yield texts
    InteractiveShell.clear_instance()


@pytest.mark.usefixtures("untouched")
def test_a_runs_names_complete_and_load_nothing(
    complete: Callable[..., list[str]], run: Run, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise AssertionError("this must not be read")

    for name in ("read_evidence", "read_scores", "read_keys", "read_examples", "read_study"):
        monkeypatch.setattr(f"grammar_lens.runs.store.stored.{name}", refuse)
    before = set(vars(run))
    found = {text.rpartition(".")[2] for text in complete("run.", run=run)}
    assert {"keys", "scores", "moments", "examples", "model", "neuron", "lesion", "study"} <= found
    assert {text.rpartition(".")[2] for text in complete("run.mo", run=run)} >= {"moments", "model"}
    complete("run.model.", run=run)
    complete("run.moments[", run=run)
    assert set(vars(run)) == before, "nothing was loaded"
    with pytest.raises(GrammarLensError, match="must not be read"):
        run.keys  # noqa: B018  # what the test relies on


def test_keys_complete(complete: Callable[..., list[str]], run: Run, bank: gl.Treebank):
    def keys(code: str, value: object) -> set[str]:
        return {text.strip("'\"]") for text in complete(code, thing=value)}

    assert keys('thing["', run.keys) == set(LABELS)
    assert keys('thing["V', run.keys) == {"VERB"}
    assert keys('thing["', run.scores) == set(LABELS)
    assert keys('thing.keys["', run) == keys('thing.scores["', run) == set(LABELS)
    assert keys('thing["', bank) == {"train", "test"}
    one = replace(run.moments, by_position={"word": run.moments.by_position["word"]})
    assert keys('thing["', one) == set(one.by_position["word"])
    assert not keys('thing["', run.moments) & {"neuron"}, "at two positions it must be said which"
    layers = {str(layer) for layer, _ in run.examples["word"]}
    assert set(run.examples["word"]._ipython_key_completions_()) == set(run.examples["word"])
    assert layers & keys("thing[", run.examples["word"])
