"""Key neurons as lists for Neuronpedia, which shows the dashboards of a list side by side.

A list is what Neuronpedia's API takes at `/api/list/new-with-features`, or a link to its page `quick-list`;
both name a neuron by `modelId`, `layer` (the layer's source) and `index`.
Source: docs.neuronpedia.org; SAELens, `sae_lens.analysis.neuronpedia_integration`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from grammar_lens.errors import GrammarLensError
from grammar_lens.files import write_json
from grammar_lens.runs.store.stored import StoredRun

QUICK_LIST = "https://www.neuronpedia.org/quick-list/"
LISTS, LINKS = "neuronpedia.json", "quick_lists.csv"
_PAGES = re.compile(r"([\w.-]+)/([\w.-]*\{layer\}[\w.-]*)")


@dataclass(frozen=True)
class Lists:
    """A list for each position and label, as bodies of requests, and the page where each is shown."""

    bodies: Sequence[Mapping[str, Any]]
    links: pd.DataFrame
    """A row per list: position, label, n_neurons, url."""

    def write_bodies(self, path: Path) -> None:
        write_json(path, list(self.bodies))

    def write_links(self, path: Path) -> None:
        self.links.to_csv(path, index=False, lineterminator="\n")


def lists_of(run: StoredRun, pages: str | None, top: int | None) -> Lists:
    """The `top` first key neurons of every label (None: all), for the model and source in `pages`.

    `pages` is "MODEL/SOURCE" as Neuronpedia calls them, with {layer} for the number of the layer.
    Raises GrammarLensError for another form of `pages`, and for a run without key neurons.
    """
    match = None if pages is None else _PAGES.fullmatch(pages)
    if match is None:
        raise GrammarLensError(
            f"neuronpedia is {pages!r}, expected MODEL/SOURCE with {{layer}} in it, as in the address of "
            "a neuron's page at neuronpedia.org: which model, and which source has its MLP neurons"
        )
    run.require("select")
    model, source = match.groups()
    bodies, rows = [], []
    for position in run.positions:
        keys = run.keys_at(position)
        for label, neurons in keys.items():
            some = neurons.top(top) if top is not None else neurons
            if not len(some):
                continue
            features = [
                {
                    "modelId": model,
                    "layer": source.replace("{layer}", str(layer)),
                    "index": str(index),
                    "description": f"{label}, {keys.method} {score:+.3g}",
                }
                for (layer, index), score in zip(some, some.score.tolist(), strict=True)
            ]
            name = f"{label} neurons at '{position}' of {run.config['model']}"
            about = (
                f"Chosen on {keys.origin.treebank} by {keys.method} ({keys.rule}) with grammar_lens"
            )
            bodies.append({"name": name, "description": about, "features": features})
            bare = [{k: f[k] for k in ("modelId", "layer", "index")} for f in features]
            url = f"{QUICK_LIST}?name={quote(name)}&features={quote(json.dumps(bare))}"
            rows.append((position, label, len(some), url))
    columns = pd.Index(["position", "label", "n_neurons", "url"])
    return Lists(bodies, pd.DataFrame(rows, columns=columns))
