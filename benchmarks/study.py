"""What every step of a whole run costs, in units of its own collecting pass and of the bare forward pass.

    python benchmarks/study.py
    python benchmarks/study.py --model smollm2-135m --train FOLDER:dev --fresh FOLDER:test

Times are CPU seconds of this process. Passes are counted at the embedding: tokens read by the model
over those of the training words, lesions included.
Goal: all steps without lesions cost at most 5 collecting passes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from measure import OutFlag, one_thread, save, show, target

from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.model.about import Model, embedding
from grammar_lens.passes.stream import stream
from grammar_lens.runs.pipeline import do
from grammar_lens.runs.session import Session
from grammar_lens.runs.settings import Config as RunConfig
from grammar_lens.runs.steps import READINGS
from grammar_lens.runs.store.directory import open_run

MOST = 5.0
STAGES = (("collect",), ("score",), ("select",), tuple(READINGS), ("lesion",), ("report",))
"""Steps in order; those that share passes together."""


@dataclass(frozen=True)
class Config(OutFlag):
    """The flags."""

    model: Annotated[str, typer.Option(help="As of `grammar-lens run`.")] = "reference-9m"
    train: Annotated[str, typer.Option(help="As of `grammar-lens run`.")] = "embedded:train"
    fresh: Annotated[str, typer.Option(help="As of `grammar-lens run`.")] = "embedded:test"
    lesions: Annotated[bool, typer.Option(help="The lesion step too.")] = True


@dataclass
class _Counter:
    """Tokens that the model has read."""

    tokens: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def watching(self, model: Model) -> Iterator[None]:
        def count(_module: object, inputs: tuple) -> None:
            self.tokens += inputs[0].numel()

        handle = embedding(model).register_forward_pre_hook(count)
        yield
        handle.remove()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before, begin = self.tokens, time.process_time()
        yield
        seconds = time.process_time() - begin
        self.stages[name] = {"cpu_seconds": seconds, "tokens": self.tokens - before}


def main(config: Config) -> None:
    """Makes a run in a temporary folder, prints and writes what its steps cost."""
    one_thread()
    counter = _Counter()
    with TemporaryDirectory() as folder:
        settings = RunConfig(
            model=config.model,
            train=config.train,
            fresh=config.fresh,
            out=Path(folder) / "run",
            show_progress=False,
        )
        session = Session(settings)
        session.check()
        run = open_run(settings.out, settings.stored(), resume=False)
        session.record_sources(run)
        alignment = session.train.alignment
        batches = session.train.batches(settings.token_budget or default_budget(session.model))
        with counter.watching(session.model):
            stream(session.model, alignment, batches[:1], [])
            with counter.stage("bare forward pass"):
                stream(session.model, alignment, batches, [])
            for steps in STAGES:
                if config.lesions or steps != ("lesion",):
                    with counter.stage(", ".join(steps)):
                        do(steps, session, run)
    bare, collecting = (counter.stages[name] for name in ("bare forward pass", "collect"))
    rows = {
        name: {
            "cpu_seconds": cost["cpu_seconds"],
            "collecting_passes": cost["cpu_seconds"] / collecting["cpu_seconds"],
            "bare_passes": cost["cpu_seconds"] / bare["cpu_seconds"],
            "times_the_training_words": cost["tokens"] / bare["tokens"],
        }
        for name, cost in counter.stages.items()
    }
    aside = ("bare forward pass", "lesion", "report")
    without = sum(row["collecting_passes"] for name, row in rows.items() if name not in aside)
    columns = {
        "CPU s": "{cpu_seconds:.2f}",
        "collecting passes": "{collecting_passes:.2f}",
        "bare passes": "{bare_passes:.2f}",
        "times the training words": "{times_the_training_words:.2f}",
    }
    show(f"{config.model}, {alignment.n_words:,} training words", "stage", rows, columns)
    print(target("steps without lesions, in collecting passes", without, MOST))
    save("study", config, rows=rows, without_lesions=without)


if __name__ == "__main__":
    start_page(main, Config, __doc__)
