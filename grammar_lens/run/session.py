"""A run as a place to work in: its model, its lesions by name, and its neurons one by one."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from grammar_lens.examples import NeuronExamples
from grammar_lens.inspection import (
    NeuronView,
    Whole,
    parse_address,
    require_neuron,
    scores_of,
)
from grammar_lens.lesions import lesion
from grammar_lens.model import Model, load_model
from grammar_lens.run.display import run_html
from grammar_lens.run.files import RunError
from grammar_lens.run.stored import STEPS, StoredRun
from grammar_lens.study import donors, examples_at

if TYPE_CHECKING:
    from grammar_lens.steps import Workbench


class Run(StoredRun):
    """The results of a run directory, and its model to work with.

    Everything is loaded when it is first asked for. `at(position)` gives everything of one position;
    `scores`, `keys` are those of the lesion study ("next" when it was read), `probe` the one at the
    word when it was read.
    """

    @cached_property
    def model(self) -> Model:
        """The model that the run is of, on the device that `gl.load_model` takes by itself.

        To have it elsewhere, set it: `run.model = gl.load_model(run.config["model"], device="cpu")`.
        """
        return load_model(self.config["model"], dtype=self.config["dtype"])

    @cached_property
    def _bench(self) -> "Workbench":
        """The words of the run, with its model. Raises RunError if either has changed since."""
        from grammar_lens.steps import Config, Workbench  # which import this module

        bench = Workbench(Config.of(self, show_progress=False), lambda _text: None)
        bench.model = self.model
        bench.require_same_sources(self)
        return bench

    @contextmanager
    def lesion(
        self,
        label: str,
        *,
        dose: float = 1.0,
        value: str = "mean",
        k: int | None = None,
        position: str | None = None,
    ) -> Iterator[Model]:
        """While open, the label's key neurons are lesioned in `model`, which is yielded.

        The first `k` of them, by default all, at the position of the lesion study unless another is
        named; dose and value are those of `gl.lesion`. Raises RunError for a label without any.
        """
        key = (self.keys if position is None else self.at(position).keys)[label]
        key = key if k is None else key.top(k)
        if not len(key):
            raise RunError(f"{label!r} has no key neurons in {self.path}: there is nothing to cut")
        given = None
        if value == "resample":
            at = position or self.main_position
            given = donors(self.model, self._bench.train, key, position=at)
        with lesion(self.model, key, value=value, dose=dose, donors=given) as model:
            yield model

    def generate(
        self, prompt: str, lesion: str | None = None, *, dose: float = 1.0, tokens: int = 40
    ) -> str:
        """The prompt and the likeliest `tokens` after it, with the lesion of a label if one is named."""
        from grammar_lens.generation import write_on  # which imports this module

        cut = nullcontext(self.model) if lesion is None else self.lesion(lesion, dose=dose)
        with cut as model:
            return write_on(model, [prompt], tokens=tokens)[0][0].text

    def neuron(
        self,
        layer: Whole | str,
        index: Whole | None = None,
        position: str | None = None,
        read: bool | None = None,
    ) -> NeuronView:
        """One neuron, given as (5, 123) or "5.123": scores, examples and direct effects.

        At every position of the run, or at one. Examples that the run has not stored are read now,
        which loads the model and the training words: with `read=False` they are left out, with
        `read=True` the stored ones are read anew too.
        Raises InspectionError for a neuron that does not exist.
        """
        at = parse_address(layer, index)
        positions = self.positions if position is None else (self.at(position).position,)
        for p in positions:
            require_neuron(*at, self.scores_at(p))
        found = {} if read else self._stored_examples(at, positions)
        missing = [p for p in positions if p not in found]
        if missing and read is not False:
            found |= self._read_examples(at, missing)
        o = self.scores_at(positions[0]).origin
        return NeuronView(
            model=o.model,
            treebank=o.treebank,
            site=o.site,
            layer=at[0],
            index=at[1],
            methods={p: self.scores_at(p).method for p in positions},
            tables={
                p: scores_of(*at, s, self.moments.at(p)[o.site], self.keys_at(p))
                for p, s in ((p, self.scores_at(p)) for p in positions)
            },
            examples={p: found[p] for p in positions if p in found},
        )

    def _stored_examples(
        self, at: tuple[int, int], positions: tuple[str, ...]
    ) -> dict[str, NeuronExamples]:
        stored = self.examples
        return {p: stored[p][at] for p in positions if p in stored and at in stored[p]}

    def _read_examples(
        self, at: tuple[int, int], positions: list[str]
    ) -> dict[str, NeuronExamples]:
        """Examples of one neuron among the words of the step that stores them."""
        bench = self._bench
        found = examples_at(
            bench.model,
            bench.train,
            {p: [at] for p in positions},
            lexicon=bench.lexicon,
            **bench.config.for_examples(),
        )
        return {p: examples[at] for p, examples in found.items()}

    def __repr__(self) -> str:
        done = ", ".join(step for step in STEPS if self.has(step)) or "nothing yet"
        return f"Run {self.path}: {self.config['model']} on {self.config['train']}; done: {done}"

    def _repr_html_(self) -> str:
        return run_html(self)
