"""A run in the explorer: its stored results and its model; independent of the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from grammar_lens.errors import GrammarLensError
from grammar_lens.explorer.background import Background
from grammar_lens.explorer.ranked_scores import Findings
from grammar_lens.generation.writing import Written, write_on
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.next_word import Prediction, Vocabulary, encode, predict
from grammar_lens.model.about import Model, fingerprint
from grammar_lens.neurons.address import Address
from grammar_lens.neurons.examples import NeuronExamples
from grammar_lens.neurons.find_examples import examples_reading
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.own_text import TextActivations, activations
from grammar_lens.neurons.word_activations import WordActivations, word_activations_reading
from grammar_lens.passes.shared import Reading, read_together
from grammar_lens.runs.run import Run
from grammar_lens.runs.session import Session

VALUES = ("mean", "zero")
"""Values of a lesion that need no activations of other words."""
MOST_TOKENS = 200
READ_WORDS = 5000
"""Training words at which a neuron is read now, for what the run does not store of it."""
MOST_LINES = 12
"""Neurons that are shown on a text of one's own."""


class ExploredRun(Findings):
    """A run's findings, and its model: what it expects and writes, intact and lesioned.

    The model and the training words load in the background after `load`. Only one thread at a time
    uses the model, since a lesion changes it for all.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._session = Session.of(run)
        self.config = self._session.config
        self._read: dict[tuple[str, Address], NeuronExamples] = {}
        self._words: dict[tuple[str, Address], WordActivations] = {}
        self._turn = Lock()
        self._model = Background(f"the model {self.config.model!r}", self._load_model)
        self._vocabulary = Background(
            f"the training data {self.config.train!r}", self._load_vocabulary
        )

    def load(self) -> None:
        """Begins to load the model and the training words; to be called once."""
        self._model.start()
        self._vocabulary.start()

    def _load_model(self) -> Model:
        model = self._session.model
        known = self.run.record.get("model", {}).get("weights")
        if known is not None and known != fingerprint(model):
            raise GrammarLensError("its weights are not those that the run was made with")
        return model

    def _load_vocabulary(self) -> Vocabulary:
        model = self._model.wait()
        bank = self._session.train_bank
        known = self.run.record.get("treebank", {}).get("train")
        if known is not None and known["fingerprint"] != bank.fingerprint():
            raise GrammarLensError("it has changed since the run was made")
        return Vocabulary.of(model, self._session.lexicon)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is loading any more."""
        return self._model.is_done and self._vocabulary.is_done

    @property
    def can_write(self) -> bool:
        """Whether the model is there."""
        return self._model.is_done and not self._model.fault

    @property
    def can_tell_tags(self) -> bool:
        """Whether the model and the lexicon are there."""
        return self._vocabulary.is_done and not self._vocabulary.fault

    @property
    def message(self) -> str:
        """The part that is loading, or the error that prevented it; empty when all is loaded."""
        for part in (self._model, self._vocabulary):
            if not part.is_done:
                return f"Loading {part.what} …"
            if part.fault:
                return f"{part.what[0].upper()}{part.what[1:]} is not available: {part.fault}"
        return ""

    def examples(self, position: str, at: Address) -> NeuronExamples | None:
        """One neuron on real text, where the run stored it or `read` has read it; else None."""
        stored = self.run.examples.get(position)
        if stored is not None and at in stored:
            return stored[at]
        return self._read.get((position, at))

    def words(self, position: str, at: Address) -> WordActivations | None:
        """One neuron's activation at each of some training words, where `read` has read it; else None."""
        return self._words.get((position, at))

    def read(self, position: str, at: Address) -> None:
        """Reads one neuron at some training words, so that `words` and `examples` have it.

        Raises GrammarLensError while the model or the words are not there.
        """
        lexicon = self._vocabulary.get().lexicon
        some = {"max_words": READ_WORDS, "seed": self.config.seed}
        with self._model_alone() as model:
            corpus = self._session.train
            words = word_activations_reading(model, corpus, at, position=position, **some)
            readings: list[Reading[object]] = [words]
            examples = None
            if self.examples(position, at) is None:
                examples = examples_reading(
                    model, corpus, {position: [at]}, lexicon=lexicon, **some
                )
                readings.append(examples)
            budget = self.config.token_budget
            read_together(model, readings, "neuron", token_budget=budget, show_progress=False)
            if examples is not None:
                self._read[position, at] = examples.finish()[position][at]
            self._words[position, at] = words.finish()

    def own_text(self, text: str, neurons: Neurons) -> TextActivations:
        """Activations of some neurons at every token of a text, in the intact model.

        Raises GrammarLensError for a text that is empty or too long, for more than 12 neurons, and
        while the model is not there.
        """
        if len(neurons) > MOST_LINES:
            raise GrammarLensError(
                f"{len(neurons)} neurons are picked: at most {MOST_LINES} are shown on a text"
            )
        with self._model_alone() as model:
            return activations(model, text, neurons)

    @contextmanager
    def _model_alone(self) -> Iterator[Model]:
        """The model, which no other thread uses meanwhile."""
        model = self._model.get()
        with self._turn:
            yield model

    def tags(
        self, prompt: str, neurons: Neurons, *, value: str = "mean", dose: float = 1.0
    ) -> tuple[Prediction, Prediction]:
        """The model's predictions after a prompt, intact and lesioned.

        Raises GrammarLensError for a prompt that is empty or too long, and while anything is missing.
        """
        vocabulary = self._vocabulary.get()
        with self._model_alone() as model:
            ids = encode(model, prompt)
            intact = predict(model, vocabulary, ids)
            with lesion(model, neurons, value=value, dose=dose):
                lesioned = predict(model, vocabulary, ids)
        return intact, lesioned

    def text(
        self,
        prompt: str,
        neurons: Neurons,
        *,
        value: str = "mean",
        dose: float = 1.0,
        tokens: int = 40,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> tuple[Written, Written]:
        """Continuations of a prompt, intact and lesioned, from the same random numbers.

        Raises GrammarLensError for a prompt that is empty or too long, and for settings out of range.
        """
        _check(tokens, temperature)
        settings = {"tokens": tokens, "temperature": temperature, "seed": seed}
        with self._model_alone() as model:
            encode(model, prompt, tokens)
            read = [prompt.rstrip()]
            ((intact,),) = write_on(model, read, **settings)
            with lesion(model, neurons, value=value, dose=dose):
                ((lesioned,),) = write_on(model, read, **settings)
        return intact, lesioned


def _check(tokens: int, temperature: float) -> None:
    if not 1 <= tokens <= MOST_TOKENS:
        raise GrammarLensError(f"Tokens to write: {tokens}, expected 1 to {MOST_TOKENS}.")
    if not 0 <= temperature <= 5:
        raise GrammarLensError(
            f"Temperature: {temperature:g}, expected 0 (the likeliest token) to 5."
        )
