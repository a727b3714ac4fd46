"""A leaderboard of scores: accuracy of the neurons that each chooses, and agreement of two samples."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens.neurons.controls import mean_interval
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import reliability


def agreement_of_samples(
    choices: Mapping[tuple[int, str], Mapping[str, KeyNeurons]], ks: Sequence[int]
) -> pd.DataFrame:
    """Share of a label's k neurons that two disjoint samples agree on, mean over labels and pairs."""
    rows = []
    for position in dict.fromkeys(p for _, p in choices):
        runs = [keys for (_, p), keys in choices.items() if p == position]
        for name in runs[0]:
            for k in ks:
                agreements = [
                    reliability(a[name].top(k), b[name].top(k)) for a, b in combinations(runs, 2)
                ]
                # a single sample agrees with no other
                share = [float(np.mean(r.shared / k)) for r in agreements] or [np.nan]
                chance = [float(np.mean(r.expected / k)) for r in agreements] or [np.nan]
                rows.append((position, name, k, np.mean(share), np.mean(chance)))
    columns = ["position", "score", "k", "agreement", "chance_agreement"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def leaderboard(rounds: pd.DataFrame, agreed: pd.DataFrame) -> pd.DataFrame:
    """A row per position, score and k, best first: means over samples, with an interval."""
    rows = []
    for key, group in rounds.groupby(["position", "score", "k"], sort=False):
        position, name, k = key if isinstance(key, tuple) else (key, "", 0)
        mean, low, high = mean_interval(group["accuracy"].to_numpy())
        row: dict[str, Any] = {"position": position, "score": name, "k": k}
        row |= {"n_neurons": group["n_neurons"].mean()}
        row |= {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
        for column in ("ambiguous_accuracy", "unseen_accuracy", "macro_f1"):
            row[column] = group[column].mean()
        rows.append({**row, "seconds": group["seconds"].mean()})
    board = pd.DataFrame(rows).merge(agreed, on=["position", "score", "k"], how="left")
    order = board["position"].map({"word": 0, "next": 1})
    board = board.assign(order=order).sort_values(
        ["order", "k", "accuracy"], ascending=[True, True, False], ignore_index=True
    )
    return board.drop(columns="order")


def leaderboard_markdown(board: pd.DataFrame) -> str:
    """The leaderboard as tables, one per position and k."""
    parts: dict[str, list[str]] = {}
    for row in board.to_dict("records"):
        title = f"`{row['position']}`, {row['k']} neurons per label ({row['n_neurons']:.0f} in all)"
        agreed = f"{row['agreement']:.2f} ({row['chance_agreement']:.2f})"
        parts.setdefault(title, []).append(
            f"| {row['score']} | {row['accuracy']:.3f} ({row['accuracy_low']:.3f} to "
            f"{row['accuracy_high']:.3f}) | {row['ambiguous_accuracy']:.3f} | "
            f"{row['unseen_accuracy']:.3f} | {row['macro_f1']:.3f} | "
            f"{'' if np.isnan(row['agreement']) else agreed} |"
        )
    head = (
        "| score | accuracy (95 % interval) | ambiguous forms | unseen forms | macro F1 "
        "| agreement (chance) |\n|---|---|---|---|---|---|"
    )
    return "\n\n".join(f"### {t}\n\n{head}\n" + "\n".join(rows) for t, rows in parts.items()) + "\n"
