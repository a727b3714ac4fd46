"""A run with its model: lesions by name, and neurons one by one."""

import os
from contextlib import nullcontext
from functools import cached_property
from typing import Any, SupportsIndex

from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.errors import GrammarLensError, require_neuron
from grammar_lens.generation.writing import write_on
from grammar_lens.lesions.context import Lesion, lesion
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.next_word import N_TOKENS, Doses, NextWord, next_word
from grammar_lens.lesions.read_text import TextReading, read_text
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.address import Addresses, parse_address
from grammar_lens.neurons.examples import NeuronExamples
from grammar_lens.neurons.find_examples import examples_reading
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.own_text import TextActivations, activations
from grammar_lens.neurons.view import NeuronView, scores_of
from grammar_lens.passes.shared import read_one
from grammar_lens.progress import waiting
from grammar_lens.runs.run_html import run_html
from grammar_lens.runs.session import Session
from grammar_lens.runs.store.location import find_run
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.runs.store.studies import STEPS


class Run(StoredRun):
    """The results of a run directory, and its model to work with.

    Everything is loaded when it is first asked for. `at(position)` gives everything of one position;
    `scores`, `keys` and `probe` are those of the lesion study ("next" when it was read);
    `scores_at(position)`, `keys_at` and `probe_at` are those of either.
    """

    @cached_property
    def model(self) -> Model:
        """The run's model, on the device that `gl.load_model` chooses.

        To have it elsewhere, set it: `run.model = gl.load_model(run.config["model"], device="cpu")`.
        """
        with waiting(f"Loading {self.config['model']}"):
            return load_model(
                self.config["model"],
                dtype=self.config["dtype"],
                revision=self.config.get("revision"),
            )

    @cached_property
    def _session(self) -> Session:
        """The words of the run, with its model. Raises GrammarLensError if either has changed since."""
        session = Session.of(self, model=self.model)
        session.require_same_sources(self)
        return session

    @cached_property
    def _lexicon(self) -> Lexicon:
        """Labels of the tokens that begin words of the run's training data."""
        session = self._session
        with waiting(f"Counting the labels of {self.config['train']}"):
            return session.lexicon

    def lesion(
        self,
        which: str | Neurons | Addresses,
        *,
        dose: float = 1.0,
        value: str = "mean",
        k: int | None = None,
        position: str | None = None,
        allow_other_model: bool = False,
    ) -> Lesion:
        """While open, some neurons are lesioned in `model`, which is yielded.

        They are a label's key neurons, a set such as `run.keys["VERB"] | run.keys["NOUN"]`, or
        addresses ("7.336"): the first `k` of them, by default all, with their means at the position
        of the lesion study unless another is named; dose and value are those of `gl.lesion`.
        Raises GrammarLensError for a label without key neurons, for neurons that do not exist, and
        where `model` was set to one with other weights, unless `allow_other_model`.
        """
        chosen = self._chosen(which, k, position)
        given = self._donors(chosen, value, position)
        options: dict[str, Any] = {"value": value, "dose": dose, "donors": given}
        return lesion(self.model, chosen, allow_other_model=allow_other_model, **options)

    def _chosen(
        self, which: str | Neurons | Addresses, k: int | None = None, position: str | None = None
    ) -> Neurons:
        """The neurons that a caller names by label, set or address."""
        keys = self.keys if position is None else self.at(position).keys
        if isinstance(which, Neurons):
            neurons = which
        elif isinstance(which, str) and (which in keys or not any(map(str.isdigit, which))):
            neurons = keys[which]
        else:
            neurons = keys.pick(which)
        neurons = neurons if k is None else neurons.top(k)
        if not len(neurons) and isinstance(which, str):
            raise GrammarLensError(
                f"{which!r} has no key neurons in {self.path}: there is nothing to cut"
            )
        return neurons

    def _donors(self, chosen: Neurons, value: str, position: str | None) -> Donors | None:
        if value != "resample":
            return None
        return self._session.donors(chosen, position or self.main_position)

    def next_word(
        self,
        prompt: str,
        lesion: str | Neurons | Addresses | None = None,
        *,
        doses: Doses = (1.0,),
        value: str = "mean",
        k: int | None = None,
        n_tokens: int = N_TOKENS,
    ) -> NextWord:
        """P(label) of the word after a prompt and the likeliest tokens, intact and at each dose of a lesion.

        The labels are those of the run, counted on its training words; `lesion` names neurons as
        `lesion` does. Raises GrammarLensError as `gl.next_word` does.
        """
        chosen = None if lesion is None else self._chosen(lesion, k)
        return next_word(
            self.model,
            prompt,
            chosen,
            doses=doses,
            value=value,
            donors=None if chosen is None else self._donors(chosen, value, None),
            lexicon=self._lexicon,
            n_tokens=n_tokens,
        )

    def read_text(
        self,
        text: str,
        lesion: str | Neurons | Addresses | None = None,
        *,
        dose: float = 1.0,
        value: str = "mean",
        k: int | None = None,
    ) -> TextReading:
        """The loss of every token of a text and P(label) of the word after it, intact and lesioned.

        As `gl.read_text`, with the labels and the training words of the run.
        """
        chosen = None if lesion is None else self._chosen(lesion, k)
        return read_text(
            self.model,
            text,
            chosen,
            dose=dose,
            value=value,
            donors=None if chosen is None else self._donors(chosen, value, None),
            lexicon=self._lexicon,
        )

    def activations(self, text: str, neurons: str | Neurons | Addresses) -> TextActivations:
        """Activations of some neurons at every token of a text: of a label's, a set's, or "7.336"."""
        return activations(self.model, text, self._chosen(neurons))

    def generate(
        self,
        prompt: str,
        lesion: str | Neurons | Addresses | None = None,
        *,
        dose: float = 1.0,
        tokens: int = 40,
    ) -> str:
        """The prompt and the likeliest `tokens` after it, with the lesion of some neurons if named."""
        cut = nullcontext(self.model) if lesion is None else self.lesion(lesion, dose=dose)
        with cut as model:
            return write_on(model, [prompt], tokens=tokens)[0][0].text

    def neuron(
        self,
        layer: SupportsIndex | str,
        index: SupportsIndex | None = None,
        position: str | None = None,
        read: bool | None = None,
    ) -> NeuronView:
        """One neuron, given as (5, 123) or "5.123": scores, examples and direct effects.

        At every position of the run, or at one. Examples that the run has not stored are read now,
        which loads the model and the training words: with `read=False` they are left out, with
        `read=True` the stored ones are read anew too.
        Raises GrammarLensError for a neuron that does not exist.
        """
        at = parse_address(layer, index)
        positions = self.positions if position is None else (self.at(position).position,)
        for p in positions:
            scores = self.scores_at(p)
            require_neuron(*at, *scores.values.shape[1:], model=scores.origin.model)
        examples = {} if read else self._stored_examples(at, positions)
        missing = [p for p in positions if p not in examples]
        if missing and read is not False:
            examples |= self._read_examples(at, missing)
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
            examples={p: examples[p] for p in positions if p in examples},
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
        session = self._session
        reading = examples_reading(
            session.model,
            session.train,
            {p: [at] for p in positions},
            lexicon=self._lexicon,
            **session.config.for_examples(),
        )
        fresh = read_one(
            session.model,
            reading,
            "examples",
            token_budget=session.config.token_budget,
            show_progress=session.config.show_progress,
        )
        return {p: examples[at] for p, examples in fresh.items()}

    def __repr__(self) -> str:
        done = ", ".join(step for step in STEPS if self.has(step)) or "nothing yet"
        return f"Run {self.path}: {self.config['model']} on {self.config['train']}; done: {done}"

    def _repr_html_(self) -> str:
        return run_html(self)


def load_run(path: str | os.PathLike[str]) -> Run:
    """The results of a run directory, or with "RUN@NAME" those of a stored study and what it was made from.

    Raises GrammarLensError if there is none, or if run.json is damaged.
    """
    return Run(*find_run(path))
