"""A text of one's own as the model reads it, and the activations of chosen neurons at its tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError, require_neuron
from grammar_lens.model.about import (
    Model,
    context_length,
    device_of,
    hook_name,
    model_name,
    site_width,
)
from grammar_lens.model.forward import final_hidden, hooked
from grammar_lens.neurons.address import Addresses
from grammar_lens.neurons.examples import token_ends, token_texts
from grammar_lens.neurons.neurons import Neurons, as_neurons
from grammar_lens.neurons.view_html import coloured_text

_LINES = 12
"""Neurons whose line of coloured text is shown."""


@dataclass(frozen=True)
class ReadText:
    """A text's token ids, with BOS where the tokenizer adds it, and what each token covers of it.

    `tokens` are without BOS; `first` is the number of the first of them among the ids, 1 or 0.
    """

    ids: Int[Tensor, "one token"]
    tokens: tuple[str, ...]
    first: int

    @classmethod
    def of(cls, model: Model, text: str) -> "ReadText":
        """Raises GrammarLensError for an empty text, and for one longer than the model's context."""
        if not text.strip():
            raise GrammarLensError("the text is empty: give a few words")
        coded = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids = list(coded["input_ids"])
        if len(ids) > context_length(model):
            raise GrammarLensError(
                f"the text has {len(ids):,} tokens and {model_name(model)} reads "
                f"{context_length(model):,}: read it in parts"
            )
        first = int(bool(ids) and ids[0] == model.tokenizer.bos_token_id)
        offsets = np.asarray(coded["offset_mapping"], np.int64).reshape(-1, 2)[first:]
        ends = token_ends(text, offsets)
        tokens = token_texts(text, ends, range(len(ends)), 0, len(text))
        return cls(torch.tensor([ids], device=device_of(model)), tokens, first)


@dataclass(frozen=True)
class TextActivations(Shown):
    """Some neurons at every token of a text; `values[token, neuron]` are activations.

    `alone` says that nothing is before the first token, not even BOS: many models have extreme
    activations there (Sun et al. 2024), which peaks and colours leave out.
    """

    model: str
    tokens: tuple[str, ...]
    neurons: Neurons
    values: Float[np.ndarray, "token neuron"]
    alone: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The neurons' addresses, "layer.index"."""
        return tuple(f"{layer}.{index}" for layer, index in self.neurons)

    @property
    def peaks(self) -> Int[np.ndarray, " neuron"]:
        """The token at which each neuron is furthest from 0, the first left out if it is alone."""
        first = int(self.alone and len(self.tokens) > 1)
        return first + np.abs(self.values[first:]).argmax(0)

    def to_frame(self) -> pd.DataFrame:
        """A row per token, a column per neuron: its activation."""
        values = pd.DataFrame(self.values, columns=pd.Index(self.names))
        values.insert(0, "token", self.tokens)
        return values

    def __repr__(self) -> str:
        most = [
            f"{name} {self.values[i, n]:+.3g} at {self.tokens[i]!r}"
            for n, (name, i) in enumerate(zip(self.names, self.peaks, strict=True))
        ]
        more = ", ..." if len(most) > 5 else ""
        return (
            f"TextActivations of {self.model}, {len(self.tokens)} tokens; largest: "
            f"{', '.join(most[:5])}{more}"
        )

    def _repr_html_(self) -> str:
        lines = []
        for n, name in enumerate(self.names[:_LINES]):
            values = self.values[:, n]
            notes = [f"{value:+.3g}" for value in values]
            most = float(abs(values[self.peaks[n]]))
            lines.append(coloured_text(f"Neuron {name}", self.tokens, values, notes, most))
        more = len(self.names) - _LINES
        note = f"<small>and {more:,} more neurons: to_frame()</small>" if more > 0 else ""
        return f"<p>{escape(repr(self))}</p>{''.join(lines)}{note}"


def activations(model: Model, text: str, neurons: Neurons | Addresses) -> TextActivations:
    """Activations of neurons at every token of a text, with any open lesion: "7.336", or a set.

    BOS is left out. Raises GrammarLensError for a text that is empty or too long, for what is no
    neuron's address, and for neurons that do not exist.
    """
    chosen = as_neurons(neurons)
    width = site_width(model, chosen.site)
    for at in chosen:
        require_neuron(*at, model.cfg.n_layers, width, model=model_name(model))
    read = ReadText.of(model, text)
    values = np.zeros((len(read.tokens), len(chosen)), np.float32)

    def keeper(layer: int) -> Callable[..., None]:
        columns = np.flatnonzero(chosen.layer == layer)
        units = torch.from_numpy(chosen.index[columns])

        def keep(activation: Tensor, **_: object) -> None:
            some = activation[0, read.first :].index_select(1, units.to(activation.device))
            values[:, columns] = some.float().cpu().numpy()

        return keep

    layers = np.unique(chosen.layer).tolist()
    with (
        torch.no_grad(),
        hooked(model, [(hook_name(model, chosen.site, x), keeper(x)) for x in layers]),
    ):
        final_hidden(model, read.ids)
    return TextActivations(model_name(model), read.tokens, chosen, values, alone=not read.first)
