"""A random model for the experiments' scripts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts import run_script


@pytest.fixture(scope="module")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A random model of two layers of 48 neurons, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Runs a script, whose results go to a folder `out`, and gives the message that it ends with."""

    def run(script: str, flags: dict[str, Any]) -> str:
        given = {"out": tmp_path / "out", **flags}
        assert run_script(monkeypatch, script, given) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return run
