"""Other people's ways to the same numbers, as `collecting.py` compares them.

All read the words of the same corpus at every neuron and every dimension of `resid_post`. nnsight is
optional: where it is not installed its way is left out.

    pip install --no-deps --target /tmp/peers nnsight websocket-client zstandard
    PYTHONPATH=/tmp/peers python benchmarks/collecting.py
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from words import POSITION

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.model.about import Model, hook_name, site_width

SITES = ("neuron", "resid_post")


def has_nnsight() -> bool:
    return importlib.util.find_spec("nnsight") is not None


@dataclass(frozen=True)
class Peers:
    """A bridge, a Hugging Face model without its head, and the words that both read.

    Columns are numbered site by site, layer by layer.
    """

    model: Model
    body: nn.Module
    corpus: Corpus
    batches: Sequence[TokenBatch]

    @cached_property
    def codes(self) -> np.ndarray:
        return self.corpus.read(POSITION)

    @property
    def n_columns(self) -> int:
        return self.model.cfg.n_layers * sum(site_width(self.model, site) for site in SITES)

    def pairs(self, n: int) -> np.ndarray:
        """Random (column, tag) pairs."""
        rng = np.random.default_rng(0)
        n_tags = len(self.corpus.labels)
        return np.stack([rng.integers(self.n_columns, size=n), rng.integers(n_tags, size=n)], 1)

    def usual(self, rows: np.ndarray, *, filtered: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Activations [word, column] and tags [word] by `run_with_cache`, one sentence at a time."""
        alignment, layers = self.corpus.alignment, range(self.model.cfg.n_layers)
        names = [hook_name(self.model, site, layer) for site in SITES for layer in layers]
        activations, tags = [], []
        for row in rows:
            ids = torch.from_numpy(alignment.token_ids[row])[None]
            with torch.no_grad():
                _, cache = self.model.run_with_cache(ids, names_filter=names if filtered else None)
            start, end = alignment.row_start[row : row + 2]
            words = np.arange(start, end)[self.codes[start:end] >= 0]
            where = alignment.time(POSITION)[words]
            activations.append(np.concatenate([cache[x][0].numpy()[where] for x in names], axis=1))
            tags.append(self.codes[words])
        return np.concatenate(activations), np.concatenate(tags)

    @torch.no_grad()
    def copied(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances [tag, column] of rows that PyTorch's hooks copied to the host."""
        layers, activations, tags = self._layers, [], []
        at = torch.zeros(0, dtype=torch.int64)
        by_layer: dict[int, np.ndarray] = {}

        def look(place: int, x: torch.Tensor) -> None:
            by_layer[place] = x.flatten(0, 1)[at].float().cpu().numpy()

        handles = [
            layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args, i=i: look(i, args[0]))
            for i, layer in enumerate(layers)
        ]
        handles += [
            layer.register_forward_hook(lambda _m, _a, out, i=i: look(i, out))
            for i, layer in enumerate(layers, len(layers))
        ]
        try:
            for batch in self.batches:
                words, where = batch.locate(self.corpus.alignment, POSITION, self.codes >= 0)
                at = torch.from_numpy(where)
                self.body(batch.token_ids, use_cache=False)
                activations.append(np.concatenate([by_layer[i] for i in sorted(by_layer)], axis=1))
                tags.append(self.codes[words])
        finally:
            for handle in handles:
                handle.remove()
        x, tag = np.concatenate(activations), np.concatenate(tags)
        activations.clear()
        hot = np.eye(len(self.corpus.labels), dtype=np.float32)[tag]
        size = hot.sum(0)[:, None]
        mean = hot.T @ x / size
        x -= mean[tag]
        return mean, hot.T @ np.square(x, out=x) / size

    def nnsight(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums and sums of squares [tag, column] by nnsight's traces, batch by batch."""
        from nnsight import NNsight, save  # pyright: ignore[reportMissingImports]

        wrapped = NNsight(self.body)
        shape = (len(self.corpus.labels), self.n_columns)
        sums, squares = torch.zeros(shape), torch.zeros(shape)
        for batch in self.batches:
            words, where = batch.locate(self.corpus.alignment, POSITION, self.codes >= 0)
            at, ids = torch.from_numpy(where), batch.token_ids
            with torch.no_grad():
                with wrapped.trace(ids, use_cache=False):
                    neurons, stream = save([]), save([])
                    for layer in wrapped.layers:
                        neurons.append(layer.mlp.down_proj.input.flatten(0, 1)[at])
                        stream.append(layer.output.flatten(0, 1)[at])
                x = torch.cat([*neurons, *stream], 1)
                hot = torch.eye(shape[0])[torch.from_numpy(self.codes[words])].T
                sums += hot @ x
                squares += hot @ x.square_()
        return sums.numpy(), squares.numpy()

    @property
    def _layers(self) -> list[Any]:
        layers: Any = self.body.layers
        return list(layers)


def correlations(x: np.ndarray, tags: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """np.corrcoef of each pair's column with "the word has this tag"."""
    return np.array([np.corrcoef(x[:, unit], tags == tag)[0, 1] for unit, tag in pairs])
