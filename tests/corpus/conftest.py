"""Real treebanks and tokenizers, read once for all files of this folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.model.about import Model


@pytest.fixture(scope="session")
def tokenizers(reference: Model, tiny: Model) -> dict[str, Any]:
    return {"reference-9m": reference.tokenizer, "tiny": tiny.tokenizer}


@pytest.fixture(scope="session")
def treebanks(shared_data: Path) -> Path:
    """The folder of real treebanks, which is not part of the project."""
    return shared_data / "treebanks"


@pytest.fixture(scope="session")
def real_tokenizers(shared_data: Path) -> Callable[[str], Any]:
    """Gives the tokenizer of a model's name."""
    loaded: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in loaded:
            folder = {"llama3": "tokenizers/llama3"}.get(name, f"models/{name}")
            loaded[name] = AutoTokenizer.from_pretrained(
                shared_data / folder, local_files_only=True
            )
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def ewt_dev(treebanks: Path) -> Treebank:
    return load_treebank(treebanks / "UD_English-EWT/en_ewt-ud-dev.conllu")
