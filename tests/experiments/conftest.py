"""A random model for the experiments' scripts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A random model of two layers of 48 neurons, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
