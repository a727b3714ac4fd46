"""Text with and without a lesion: the words, their tags, their shares, and the command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changed_runs import of_an_earlier_version
from small_runs import call, write_beginnings

import grammar_lens as gl
from grammar_lens.corpus.corpus import fresh_corpus, prepare
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.generation.find_words import find_words
from grammar_lens.generation.shares import count_tags, tag_shares
from grammar_lens.generation.tagging import TaggedWord, Tagger
from grammar_lens.generation.text_tables import describe, side_by_side, tag_table
from grammar_lens.generation.writing import Written, write_on
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.probing.fitted import FittedProbe
from grammar_lens.probing.probes import probe_words
from grammar_lens.runs.pipeline import run_step
from grammar_lens.runs.run import load_run
from grammar_lens.runs.settings import Config
from grammar_lens.runs.texts import with_and_without

LABELS = ("NOUN", "VERB", "PRON", "DET")
PROMPT = "The old man"


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A run of a random model of two layers, as far as the probe."""
    folder = tmp_path_factory.mktemp("made")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=45, test=20)
    config = Config(
        model=str(folder / "tiny"),
        train=f"{folder}:train",
        fresh=f"{folder}:test",
        labels=LABELS,
        score="correlation",
        replicates=0,
        top_k=6,
        probe_k=3,
        out=folder / "run",
        show_progress=False,
    )
    run = None
    for step in ("collect", "score", "select", "probe"):
        run = run_step(step, config, run, lambda _text: None)
    return folder / "run"


@pytest.fixture
def stored(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", ""),
            ("  \n", ""),
            ("The old man.", "The old man ."),
            ("Don't! I can\u2019t, he'd said...", "Do n't ! I ca n\u2019t , he 'd said ..."),
            ("she's John's; they're, we've, I'm, you'll", "she 's John 's ; they 're , we 've , I 'm , you 'll"),
            ("the boys' well-known dog--(two)", "the boys ' well - known dog -- ( two )"),
            ("Mr. Hill paid 3,000 at 10:30 o'clock on the 9th.", "Mr. Hill paid 3,000 at 10:30 o'clock on the 9th ."),
            ("isn't ISN'T isnt", "is n't IS N'T isnt"),
            ("caf\u00e9 na\u00efve \u2014 \u201cyes\u201d", "caf\u00e9 na\u00efve \u2014 \u201c yes \u201d"),
        ],
    )  # fmt: skip
    def test_examples(self, text: str, words: str) -> None:
        assert [text[a:b] for a, b in find_words(text)] == words.split()

    def test_they_are_those_of_the_embedded_treebank(self) -> None:
        found = gold = both = 0
        for sentence in gl.load_treebank():
            ours = set(find_words(sentence.text))
            theirs = {word.span for word in sentence.words if word.span}
            found, gold, both = found + len(ours), gold + len(theirs), both + len(ours & theirs)
        assert both / gold > 0.995
        assert both / found > 0.995


class TestTheStoredProbe:
    @pytest.mark.parametrize("position", ["word", "next"])
    def test_it_has_the_accuracy_that_was_measured(self, made: Path, position: str) -> None:
        run = load_run(made)
        probe, result = run.fitted_at(position), run.probe_at(position)
        assert len(probe.addresses) == result.n_neurons
        assert (probe.origin, probe.labels) == (result.origin, result.labels)
        model = load_model(run.config["model"])
        banks = [gl.load_treebank(made.parent / f"few-{s}.conllu") for s in ("train", "test")]
        train = prepare(model, banks[0], labels=LABELS)
        fresh, _ = fresh_corpus(model, banks[1], train)
        words = probe_words(
            model, fresh, fresh.read(position), position, probe.addresses, "neuron", None, False
        )
        predicted = [probe.labels[i] for i in probe.predict(words.features)]
        gold = [train.labels[i] for i in words.classes]
        right = np.mean([p == g for p, g in zip(predicted, gold, strict=True)])
        # the forward pass may be cut into other batches, whose rounding a tie may feel
        assert right == pytest.approx(result.accuracy, abs=1.5 / len(gold))

    def test_probe_json_has_the_numbers_alone(self, made: Path) -> None:
        written = json.loads((made / "probe.json").read_text("utf-8"))
        assert set(written) == {"word", "next"}
        assert "fitted" not in written["word"]

    def test_it_is_missing_in_a_run_of_old(self, stored: Path) -> None:
        (stored / "probe.safetensors").unlink()
        shutil.rmtree(stored / "studies")
        code, _, err = call("generate", stored, "--lesion", "VERB")
        assert code == 2
        assert (
            f"no probe.safetensors, as it was made before probes were kept: first `grammar-lens probe {stored}`"
            in err
        )
        assert call("probe", stored, "--probe-k", 3, "--quiet")[0] == 0
        code, _, err = call("generate", stored, "--lesion", "VERB", "--tokens", 3)
        assert code == 0, err

    def test_it_is_not_read_once_other_neurons_were_chosen(self, stored: Path) -> None:
        assert call("select", stored, "--top-k", 5, "--quiet")[0] == 0
        with pytest.raises(
            GrammarLensError,
            match=r"probe results of .* not made from its current results: first `grammar-lens probe",
        ):
            load_run(stored).fitted_at("word")

    def test_a_run_of_another_position_has_none(self, stored: Path) -> None:
        run = load_run(stored)
        with pytest.raises(GrammarLensError, match=r"'before'.*word, next"):
            run.fitted_at("before")


def planted_probe(weight: float) -> FittedProbe:
    """A probe that calls a word "NOUN" when neuron 1.7 is above 2 (times the weight)."""
    return FittedProbe(
        labels=("NOUN", "VERB"),
        addresses=np.array([[0, 3], [1, 7]]),
        mean=np.array([0.0, 2.0]),
        sd=np.array([0.0, 0.5]),
        weight=np.array([[5.0, weight], [-5, -weight]], np.float32),
        bias=np.array([-0.1, 0.1], np.float32) * (weight == 0),
        origin=Origin("tiny", "none", "upos", "word", "neuron"),
    )


@pytest.fixture
def planted(tiny_hf: Callable[[], Any], tiny_tokenizer: Any) -> Model:
    """A model whose neuron 1.7 says whether the token is " the"."""
    hf = tiny_hf()
    the = tiny_tokenizer(" the", add_special_tokens=False).input_ids
    assert len(the) == 1
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.post_attention_layernorm.weight.fill_(1)
        hf.model.embed_tokens.weight[:, 0] = 0
        hf.model.embed_tokens.weight[the[0]] = torch.eye(32)[0] * 4
        hf.model.layers[1].mlp.gate_proj.weight[7] = torch.eye(32)[0]
        hf.model.layers[1].mlp.up_proj.weight[7] = torch.eye(32)[0]
    return load_model(hf, tokenizer=tiny_tokenizer)


class TestTagger:
    def test_a_planted_tag_is_read_and_no_other(self, planted: Model) -> None:
        texts = ["He saw the dog near the fire.", "", "in the end, the\u00a0end"]
        for weight, expected in ((1.0, "NOUN"), (0.0, "VERB")):
            tagged = Tagger(planted, planted_probe(weight)).tag(texts)
            assert [len(words) for words in tagged] == [8, 0, 6]
            for word in (w for words in tagged for w in words):
                assert word.tag == (expected if word.form == "the" else "VERB"), word
                assert texts[0][word.start : word.end] == word.form or word in tagged[2]

    def test_words_that_cannot_be_read_have_no_tag(self, tiny: Model) -> None:
        words = Tagger(tiny, planted_probe(1.0)).tag(["the " * 200])[0]
        assert len(words) == 200
        assert words[5].tag is not None
        assert words[199].tag is None, "it stands beyond the context of 128 tokens"
        assert Tagger(tiny, planted_probe(1.0)).tag([]) == []

    @pytest.mark.slow
    def test_the_embedded_model_is_tagged_well(self, reference: Model, bank: Any) -> None:
        train = gl.load_treebank()["train"].sample(150, seed=0)
        corpus = prepare(reference, train, min_words=20)
        keys = gl.select(gl.score(gl.collect(reference, corpus, position="word")["neuron"]), k=10)
        result = gl.probe(reference, corpus, bank, keys, n_random=0, show_progress=False)
        assert result.fitted is not None
        tagged = Tagger(reference, result.fitted).tag([s.text for s in bank])
        gold = {(i, w.span): w.label("upos") for i, s in enumerate(bank) for w in s.words}
        pairs = [
            (w.tag, gold[i, (w.start, w.end)])
            for i, words in enumerate(tagged)
            for w in words
            if w.tag and gold.get((i, (w.start, w.end))) in corpus.labels
        ]
        right = np.mean([a == b for a, b in pairs])
        assert len(pairs) > 100
        assert right == pytest.approx(result.accuracy, abs=0.03)


class TestWriting:
    def test_one_greedy_text_is_the_models_own(self, tiny: Model) -> None:
        options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "verbose": False}
        own = tiny.generate(PROMPT, **options)
        ((written,),) = write_on(tiny, [PROMPT], tokens=6)
        assert written.text == own
        assert written.text[: written.begin] == PROMPT

    def test_samples_differ_and_the_seed_repeats_them(self, tiny: Model) -> None:
        settings: dict[str, Any] = {"tokens": 6, "temperature": 1.0, "samples": 5}
        state = torch.get_rng_state()
        first = write_on(tiny, [PROMPT, "She can"], **settings)
        assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are not used"
        assert [len(samples) for samples in first] == [5, 5]
        assert len({w.text for w in first[0]}) > 1
        assert all(w.text.startswith("She can") for w in first[1])
        assert write_on(tiny, [PROMPT, "She can"], **settings) == first
        assert write_on(tiny, [PROMPT, "She can"], seed=1, **settings) != first

    def test_the_end_of_the_text_is_seen(
        self, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
    ) -> None:
        hf = tiny_hf()
        with torch.no_grad():
            for layer in hf.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            hf.model.embed_tokens.weight.fill_(1)
            hf.model.norm.weight.fill_(1)
            hf.lm_head.weight.zero_()
            hf.lm_head.weight[1] = np.log(44) / 32  # so EOS has p = 44 / 443 everywhere
        model = load_model(hf, tokenizer=tiny_tokenizer)
        written = write_on(model, [PROMPT], tokens=8, temperature=1.0, samples=20)[0]
        ended = [w for w in written if w.ended]
        assert 0 < len(ended) < len(written)
        assert not any("</s>" in w.text for w in written)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"tokens": 0}, "--tokens is 0, expected 1 or more"),
            ({"samples": 0}, "--samples is 0, expected 1 or more"),
            ({"temperature": -1.0}, "--temperature is -1, expected 0 or more"),
            ({"temperature": float("nan")}, "--temperature is nan, expected 0 or more"),
            ({"samples": 2}, "--samples is 2, and at --temperature 0 every sample is the same"),
            ({"prompts": []}, "a prompt is empty"),
            ({"prompts": ["a", " "]}, "a prompt is empty"),
            ({"tokens": 125}, r"a prompt of \d+ tokens and 125 more do not fit into the 128"),
        ],
    )
    def test_bad_settings(self, tiny: Model, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(GrammarLensError, match=message):
            write_on(tiny, **{"prompts": [PROMPT], **settings})


def tagged(text: str, tags: str) -> tuple[TaggedWord, ...]:
    spans = find_words(text)
    return tuple(
        TaggedWord(text[a:b], a, b, None if tag == "-" else tag)
        for (a, b), tag in zip(spans, tags.split(), strict=True)
    )


class TestShares:
    def test_which_words_are_counted(self) -> None:
        text = "The morning was fine and cle"
        words = tagged(text, "D N V A - X")
        begin = text.index("ning")
        tags = ("A", "D", "N", "V", "X")
        counts, unread = count_tags([Written(text, begin, False)], [words], tags)
        assert dict(zip(tags, counts[0].tolist(), strict=True)) == {
            "A": 1, "D": 0, "N": 0, "V": 1, "X": 0,
        }  # fmt: skip
        assert unread == 1
        ended, _ = count_tags([Written(text, begin, True)], [words], tags)
        assert ended[0].tolist() == [1, 0, 0, 1, 1]
        dot, _ = count_tags([Written(f"{text} ", 0, False)], [words], tags)
        assert dot[0].sum() == 5, "a blank after it says that the last word is finished"

    def test_shares_by_hand(self) -> None:
        intact, lesioned = np.array([[3, 1], [1, 3]]), np.array([[4, 0], [5, 1]])
        rng = np.random.default_rng(0)
        table = tag_shares(intact, lesioned, ("N", "V"), np.array([0, 0]), rng).set_index("tag")
        assert table.intact.to_dict() == {"N": 0.5, "V": 0.5}
        assert table.lesioned.to_dict() == {"N": 0.9, "V": 0.1}
        assert table.difference["N"] == pytest.approx(0.4)
        # the extreme draws are one sample twice: .75 -> 1 and .25 -> 5/6
        assert table.low["N"] == pytest.approx(0.25)
        assert table.high["N"] == pytest.approx(5 / 6 - 0.25)

    def test_where_there_is_no_interval(self) -> None:
        counts, rng = np.array([[3, 1], [1, 3]]), np.random.default_rng(0)
        single = tag_shares(counts, counts, ("N", "V"), np.array([0, 1]), rng)
        assert single.low.isna().all()
        assert (single.difference == 0).all()
        none = tag_shares(counts * 0, counts, ("N", "V"), np.array([0, 0]), rng)
        assert none[["intact", "difference", "low", "high"]].isna().to_numpy().all()

    def test_a_planted_difference_is_found_and_none_where_there_is_none(self) -> None:
        rng = np.random.default_rng(1)
        n_worlds, missed, found = 100, 0, 0
        for _ in range(n_worlds):
            # texts differ in what they are about: words of one text are not independent
            topic = rng.dirichlet([6, 4, 10], size=(2, 30))
            intact = np.stack([rng.multinomial(30, p) for p in topic[0]])
            lesioned = np.stack([rng.multinomial(30, p) for p in topic[1]])
            null = tag_shares(intact, lesioned, ("N", "V", "X"), np.zeros(30, int), rng)
            missed += (null.low > 0).sum() + (null.high < 0).sum()
            cut = lesioned.copy()
            cut[:, 2] += cut[:, 0] // 2
            cut[:, 0] -= cut[:, 0] // 2
            real = tag_shares(intact, cut, ("N", "V", "X"), np.zeros(30, int), rng).set_index("tag")
            found += real.high["N"] < 0
        # 5 % of 300 intervals is 15; those of one world depend on each other
        assert missed <= 36
        assert found == n_worlds


class TestTheComparison:
    def test_the_intact_model_reads_both_texts(self, made: Path) -> None:
        found = with_and_without(
            made, "VERB", prompts=[PROMPT, "She can"], value="zero", temperature=1.0, samples=3,
            tokens=8,
        )  # fmt: skip
        run = load_run(made)
        model = load_model(run.config["model"])
        tagger = Tagger(model, run.fitted_at("word"))
        settings: dict[str, Any] = {"tokens": 8, "temperature": 1.0, "samples": 3}
        intact = write_on(model, [PROMPT, "She can"], **settings)
        with gl.lesion(model, run.keys["VERB"], value="zero"):
            cut = write_on(model, [PROMPT, "She can"], **settings)
            misread = tagger.tag([w.text for samples in cut for w in samples])
        assert found.lesioned == tuple(tuple(w.text for w in samples) for samples in cut)
        assert found.lesioned != found.intact
        for texts, column in ((intact, "n_intact"), (cut, "n_lesioned")):
            flat = [w for samples in texts for w in samples]
            counts, _ = count_tags(flat, tagger.tag([w.text for w in flat]), tagger.probe.labels)
            ours = found.tags.set_index("tag")[column]
            assert ours.to_dict() == dict(zip(tagger.probe.labels, counts.sum(0), strict=True))
        flat = [w for samples in cut for w in samples]
        wrong, _ = count_tags(flat, misread, tagger.probe.labels)
        assert not np.array_equal(wrong, counts), "the lesion changes what is read"

    def test_dose_0_changes_nothing(self, made: Path) -> None:
        found = with_and_without(made, "NOUN", prompts=[PROMPT], dose=0.0, tokens=8)
        assert found.intact == found.lesioned
        assert (found.tags.difference.dropna() == 0).all()

    def test_resampling_draws_from_the_runs_words(self, made: Path) -> None:
        settings: dict[str, Any] = {
            "prompts": [PROMPT],
            "value": "resample",
            "tokens": 8,
            "top_k": 3,
        }
        found = with_and_without(made, "NOUN", **settings)
        assert found.n_neurons == 3
        assert found.lesioned == with_and_without(made, "NOUN", **settings).lesioned

    def test_a_label_without_neurons(self, stored: Path) -> None:
        of_an_earlier_version(stored)
        table = (stored / "key_neurons.csv").read_text("utf-8").splitlines()
        kept = [line for line in table if not line.startswith("DET")]
        (stored / "key_neurons.csv").write_text("\n".join(kept) + "\n", "utf-8")
        with pytest.raises(GrammarLensError, match="'DET' has no key neurons in"):
            with_and_without(stored, "DET", prompts=[PROMPT])

    def test_tables(self, made: Path) -> None:
        found = with_and_without(
            made, "VERB", prompts=[PROMPT], temperature=1.0, samples=5, tokens=9
        )
        assert side_by_side(found).row_count == 3
        table = tag_table(found)
        assert table.row_count == int((found.tags.n_intact + found.tags.n_lesioned > 0).sum())
        assert table.columns[-1].header == "95 % interval"
        accuracy = found.probe.accuracy
        assert f"accuracy {accuracy:.3f} (" in describe(found)
        assert f" on {found.probe.fresh}" in describe(found)


class TestTheCommand:
    def test_it_prints_texts_tags_and_the_taggers_accuracy(self, made: Path) -> None:
        code, out, err = call(
            "generate", made, "--lesion", "VERB", "--tokens", 8, "--prompt", PROMPT,
            "--prompt", "She can",
        )  # fmt: skip
        assert code == 0, err
        assert "6 VERB neurons, mean, dose 1" in out
        assert out.count(PROMPT) == out.count("She can") == 2
        assert "tags of the words written" in out
        assert "interval" not in out, "one sample has none"
        assert "tagged by the probe at 'word' on the intact model, accuracy 0." in out

    def test_json_has_everything(self, made: Path) -> None:
        code, out, err = call(
            "generate", made, "--lesion", "VERB", "--tokens", 8, "--temperature", 1,
            "--samples", 5, "--json",
        )  # fmt: skip
        assert code == 0, err
        found = json.loads(out)
        assert found["lesion"] == {"label": "VERB", "n_neurons": 6, "value": "mean", "dose": 1}
        assert [len(t["intact"]) for t in found["texts"]] == [5]
        assert found["texts"][0]["prompt"] == "In the morning we"
        assert {row["tag"] for row in found["tags"]} == set(LABELS)
        for name in ("intact", "lesioned"):
            n = sum(row[f"n_{name}"] for row in found["tags"])
            assert found["words"][name] == n
            assert sum(row[name] for row in found["tags"]) == pytest.approx(1)
        for row in found["tags"]:
            assert row["low"] <= row["high"]
        probe = load_run(made).probe_at("word")
        assert found["tagger"]["accuracy"] == probe.accuracy
        assert found["tagger"]["accuracy_interval"] == list(probe.accuracy_interval or ())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--lesion", "ZZZ"), "no key neurons of 'ZZZ': expected one of"),
            (("--lesion", "VERB", "--samples", 3), "use --temperature 1"),
            (("--lesion", "VERB", "--prompt", ""), "a prompt is empty"),
            (("--lesion", "VERB", "--value", "cut"), "'cut'"),
        ],
    )
    def test_bad_input_is_one_line(
        self, made: Path, options: tuple[object, ...], message: str
    ) -> None:
        code, _, err = call("generate", made, *options)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        code, _, err = call("generate", tmp_path)
        assert (code, "is no run directory" in err) == (2, True)
