"""Shared fixtures: models, a small treebank, and the folder of real data."""

import gc
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import shape_checks  # before anything of the package

# torch and the package are imported by what needs them: the process that hands out the tests to
# others loads this file before it starts them, and runs none itself
if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from grammar_lens.corpus.bank import Treebank
    from grammar_lens.model.about import Model

# HookedTransformer left TransformerLens with version 4: make test-hooked-transformer
collect_ignore = (
    [] if int(version("transformer-lens").split(".")[0]) < 4 else ["hooked_transformer"]
)

TRAIN = """\
The DET|old ADJ|dog NOUN|sleeps VERB|near ADP|the DET|warm ADJ|fire NOUN|-. PUNCT
She PRON|can AUX|run VERB|very ADV|quickly ADV|-. PUNCT
My PRON|sister NOUN|wrote VERB|a DET|long ADJ|letter NOUN|to ADP|him PRON|-. PUNCT
They PRON|do AUX|-n't PART|like VERB|the DET|cold ADJ|rain NOUN|-, PUNCT|but CCONJ|we PRON|do AUX|-. PUNCT
Anna PROPN|and CCONJ|Peter PROPN|have AUX|a DET|small ADJ|garden NOUN|in ADP|Berlin PROPN|-. PUNCT
A DET|young ADJ|teacher NOUN|reads VERB|books NOUN|about ADP|old ADJ|ships NOUN|-. PUNCT
We PRON|will AUX|never ADV|forget VERB|that DET|run NOUN|-! PUNCT
He PRON|is AUX|-n't PART|here ADV|now ADV|-, PUNCT|and CCONJ|nobody PRON|knows VERB|him PRON|-. PUNCT
The DET|children NOUN|quietly ADV|opened VERB|the DET|heavy ADJ|door NOUN|of ADP|the DET|house NOUN|-. PUNCT
It PRON|rains VERB|often ADV|in ADP|London PROPN|-, PUNCT|but CCONJ|Maria PROPN|likes VERB|it PRON|-. PUNCT
You PRON|should AUX|give VERB|her PRON|the DET|red ADJ|apple NOUN|-. PUNCT
Some DET|people NOUN|walk VERB|to ADP|work NOUN|every DET|day NOUN|-. PUNCT
Nobody PRON|wants VERB|to PART|sleep VERB|or CCONJ|to PART|read VERB|now ADV|-. PUNCT"""
TEST = """\
An DET|old ADJ|man NOUN|walks VERB|slowly ADV|to ADP|the DET|door NOUN|-. PUNCT
Peter PROPN|and CCONJ|his PRON|dog NOUN|will AUX|run VERB|in ADP|the DET|cold ADJ|rain NOUN|-. PUNCT
We PRON|do AUX|-n't PART|know VERB|the DET|new ADJ|teacher NOUN|, PUNCT|but CCONJ|she PRON|knows VERB|Anna PROPN|-. PUNCT
They PRON|can AUX|never ADV|read VERB|a DET|long ADJ|letter NOUN|quickly ADV|-! PUNCT
You PRON|have AUX|-n't PART|seen VERB|Berlin PROPN|-, PUNCT|and CCONJ|he PRON|likes VERB|it PRON|here ADV|-. PUNCT"""


def written(lines: str, name: str = "written") -> "Treebank":
    """Sentences from "form TAG|form TAG", where a form that begins with - follows without a space."""
    from grammar_lens.corpus.bank import Sentence, Treebank, Word

    sentences = []
    for number, line in enumerate(lines.splitlines()):
        text, words = "", []
        for pair in line.split("|"):
            form, tag = pair.rsplit(" ", 1)
            glued = form.startswith("-")
            form = form.removeprefix("-")
            text += form if glued or not text else f" {form}"
            words.append(Word(form, (len(text) - len(form), len(text)), {"upos": tag}))
        sentences.append(Sentence(str(number), text, tuple(words), None, f"{name}:{number}"))
    return Treebank(name, tuple(sentences))


@pytest.fixture(scope="session")
def write() -> "Callable[..., Treebank]":
    """Makes a treebank of lines "form TAG|form TAG"."""
    return written


@pytest.fixture(scope="session")
def bank() -> "Treebank":
    """Eighteen sentences with the splits train and test."""
    from grammar_lens.corpus.bank import Treebank

    whole = written(f"{TRAIN}\n{TEST}")
    return Treebank("small", whole.sentences, {"train": (0, 13), "test": (13, 18)})


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real treebanks, models and tokenizers, which is not part of the project."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GRAMMAR_LENS_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set GRAMMAR_LENS_SHARED")
    return folder


@pytest.fixture(scope="session")
def reference() -> "Model":
    """The embedded model. Do not change its weights."""
    from grammar_lens.model.loading import load_model

    return load_model()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level BPE of a few hundred tokens with BOS, EOS and a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([s.text for s in written(TRAIN)], trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def tiny_hf(tiny_tokenizer: "PreTrainedTokenizerFast") -> "Callable[[], LlamaForCausalLM]":
    """Makes a random Llama of two layers; every call gives an equal one."""
    from architectures import shake
    from transformers import LlamaConfig, LlamaForCausalLM

    def make() -> "LlamaForCausalLM":
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
        config._attn_implementation = "eager"
        model = LlamaForCausalLM(config).eval()
        shake(model)
        return model

    return make


@pytest.fixture(scope="session")
def shaken() -> "Callable[[torch.nn.Module], None]":
    """Gives a model random weights, the same at every call."""
    from architectures import shake

    return shake


@pytest.fixture
def make_tiny(
    tiny_hf: Callable[[], Any], tiny_tokenizer: "PreTrainedTokenizerFast"
) -> "Callable[[], Model]":
    """Makes a tiny hooked Llama whose weights a test may change."""
    from grammar_lens.model.loading import load_model

    return lambda: load_model(tiny_hf(), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny(tiny_hf: Callable[[], Any], tiny_tokenizer: "PreTrainedTokenizerFast") -> "Model":
    """A tiny hooked Llama. Do not change its weights."""
    from grammar_lens.model.loading import load_model

    return load_model(tiny_hf(), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def few_figures() -> Iterator[None]:
    """Runs write two of their figures, for tests that need their numbers."""
    from grammar_lens.report import files

    every = files._all_figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_all_figures", lambda run: islice(every(run), 2))
        yield


@pytest.fixture(scope="module")
def plain_reports() -> Iterator[None]:
    """Runs write a report of one line, for tests that need no more of it than that it is there.

    Drawing its pictures takes longer than all other steps of a small run together.
    """
    from grammar_lens.report import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", lambda run: f"<!doctype html><title>{run.path}</title>")
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium that is already installed; nothing is downloaded."""
    found = os.environ.get("GRAMMAR_LENS_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not found:
        pytest.skip("no Chromium: install it or set GRAMMAR_LENS_CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api")
    arguments = (
        *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
    )
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=list(arguments))
        yield chromium
        chromium.close()


def pytest_collection_finish() -> None:
    """Freeze what is imported: it stays to the end, so the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    shape_checks.begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a browser test that skips where a browser is required (in CI)."""
    report = yield
    required = os.environ.get("GRAMMAR_LENS_REQUIRE_BROWSER")
    if required and report.skipped and item.get_closest_marker("browser"):
        report.outcome = "failed"
        report.longrepr = f"a browser test was skipped where a browser is required: {call.excinfo}"
    return report
