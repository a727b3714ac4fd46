"""The table of layers: probes on the residual stream beside the selectivity of its units."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_strength
from grammar_lens.probing.layer_results import EMBEDDING, LayerProbes
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.scoring import score

_COLUMNS = {
    "accuracy": "resid_accuracy",
    "low": "resid_low",
    "high": "resid_high",
    "control_accuracy": "resid_control",
    "cross_entropy": "resid_cross_entropy",
    "raw_cross_entropy": "resid_raw_cross_entropy",
    "untrained_accuracy": "untrained_accuracy",
}
_IN_SUMMARY = (
    *("layer", "resid_accuracy_word", "resid_accuracy_next", "resid_information_next"),
    *("untrained_accuracy_word", "untrained_accuracy_next"),
    *("n_key_neurons", "rms_neuron", "rms_resid"),
    *("n_selective_neurons", "n_selective_resid"),
)
_WHOLE = ("layer", "n_key_neurons", "n_selective_neurons", "n_selective_resid")


def layer_table(
    probes: LayerProbes, keys: KeyNeurons, neuron: Evidence, resid: Evidence | None, alpha: float
) -> pd.DataFrame:
    """A row per layer, the embedding (-1) first; columns of probes end with the position.

    `rms_neuron` and `rms_resid` are the root mean square correlation over labels and units of the
    layer; `n_selective_neurons` and `n_selective_resid` count units whose correlation with some
    label passes the null of exchanged labels at q <= `alpha`. `keys`, `neuron` and `resid` are of one
    position. NaN where nothing is known, as of neurons in the embedding.
    """
    found = probes.to_frame()
    layers = np.arange(EMBEDDING, keys.n_layers)
    table = pd.DataFrame({"layer": layers})
    for position in probes.trained:
        rows = found[found.position == position].reset_index(drop=True)
        for name, column in _COLUMNS.items():
            if name in rows:
                table[f"{column}_{position}"] = rows[name]
        if position == "next":
            table["resid_information_next"] = rows.information
    held = np.bincount(keys.union()[:, 0], minlength=keys.n_layers)
    table["n_key_neurons"] = _after_embedding(held)
    for name, plural, evidence in (
        ("neuron", "neurons", neuron),
        ("resid", "resid", resid),
    ):
        if evidence is not None:
            table[f"rms_{name}"] = _after_embedding(_rms(evidence))
            passing = _n_selective(evidence, alpha)
            if passing is not None:
                table[f"n_selective_{plural}"] = _after_embedding(passing)
    return table


def layer_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of summary.json: fewer columns, None where a number is missing."""
    rows = []
    for record in table.to_dict("records"):
        known = {name: record.get(name) for name in _IN_SUMMARY}
        rows.append(
            {
                name: None
                if value is None or np.isnan(value)
                else int(value)
                if name in _WHOLE
                else float(value)
                for name, value in known.items()
            }
        )
    return rows


def _after_embedding(
    values: Float[np.ndarray, " layer"] | Int[np.ndarray, " layer"],
) -> Float[np.ndarray, " layer_plus_one"]:
    """Numbers of the layers, with none for the embedding before them."""
    return np.array([np.nan, *values.astype(float)])


def _rms(evidence: Evidence) -> Float[np.ndarray, " layer"]:
    """Root mean square correlation over labels and units."""
    return np.sqrt((layer_strength(score(evidence, "correlation")) ** 2).mean(0))


def _n_selective(evidence: Evidence, alpha: float) -> Int[np.ndarray, " layer"] | None:
    """Units that pass their null for some label; None without a null."""
    null = evidence.null("correlation")
    return None if null is None else (null.q() <= alpha).any(0).sum(1)
