"""A run made with a HookedTransformer has the results of one made with a bridge."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from grammar_lens.model.about import Model
from grammar_lens.model.forward import next_token_logits
from grammar_lens.runs.pipeline import do
from grammar_lens.runs.run import Run, load_run
from grammar_lens.runs.session import Session
from grammar_lens.runs.settings import Config
from grammar_lens.runs.store.directory import open_run
from grammar_lens.runs.store.studies import STEPS

TOLERANCE = 1e-4


def write_few(folder: Path, split: str, n: int) -> str:
    """The first sentences of the embedded treebank, as a file."""
    whole = files("grammar_lens") / "embedded" / "treebank" / f"handmade-{split}.conllu"
    path = folder / f"few-{split}.conllu"
    path.write_text("\n\n".join(whole.read_text("utf-8").split("\n\n")[:n]) + "\n\n", "utf-8")
    return str(path)


def made(model: Model, folder: Path) -> Run:
    """A small run whose session was given its model, and read again."""
    config = Config(
        train=write_few(folder.parent, "train", 60),
        fresh=write_few(folder.parent, "test", 25),
        labels=("NOUN", "VERB", "ADJ", "PRON", "DET"),
        replicates=0,
        top_k=20,
        probe_k=5,
        shams=2,
        values=("mean", "resample"),
        doses=(1.0, 0.5),
        example_neurons=2,
        attribution_words=300,
        out=folder,
        show_progress=False,
    )
    session = Session(config)
    session.model = model
    session.check()
    run = open_run(config.out, config.stored(), resume=False, usual=Config().stored())
    session.record_sources(run)
    for step in STEPS:
        if step != "report" and step not in config.left_out:
            do([step], session, run)
    read = load_run(folder)
    read.model = model
    return read


@pytest.fixture(scope="module")
def runs(ours: Model, theirs: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return made(ours, folder / "ours"), made(theirs, folder / "theirs")


def test_the_same_results(runs: tuple[Run, Run]):
    one, other = runs
    for position in ("word", "next"):
        scores = [run.at(position).scores.values for run in runs]
        np.testing.assert_allclose(*scores, rtol=0, atol=TOLERANCE)
        # neurons of nearly equal scores may change places
        shared = [
            len({*one.keys_at(position)[x]} & {*other.keys_at(position)[x]}) for x in one.keys
        ]
        assert min(shared) >= 19
    mine, want = one.study, other.study
    assert mine is not None
    assert want is not None
    np.testing.assert_allclose(mine.base_tag_loss, want.base_tag_loss, rtol=0, atol=TOLERANCE)
    assert mine.others
    assert one.course is not None


def test_what_a_run_does_with_its_model(runs: tuple[Run, Run]):
    one, other = runs
    assert one.generate("The old man", tokens=8) == other.generate("The old man", tokens=8)
    ids = one.model.tokenizer("The old man", return_tensors="pt").input_ids
    intact = next_token_logits(one.model, ids, torch.arange(ids.shape[1]))
    for value in ("mean", "resample"):
        with one.lesion("NOUN", value=value) as model:
            cut = next_token_logits(model, ids, torch.arange(ids.shape[1]))
        assert (cut - intact).abs().max() > 0.01
    address = next(iter(one.keys["NOUN"]))
    assert one.neuron(*address).examples.keys() == other.neuron(*address).examples.keys()
