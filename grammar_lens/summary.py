"""The numbers of summary.json as a table for the terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text


def summary_table(summary: dict[str, Any]) -> Table:
    """What was found, each number with what it must be compared with."""
    table = Table(title=Text(_title(summary)), title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("found")
    table.add_column("compared with")

    def row(name: str, found: str, compared: str = "") -> None:
        table.add_row(Text(name), Text(found), Text(compared))

    if "collect" in summary:
        aligned, collected = summary["alignment"], summary["collect"]
        skipped = ", ".join(f"{n:,} {reason}" for reason, n in aligned["skipped"].items())
        row(
            "words aligned",
            f"{aligned['aligned']:,} of {aligned['words']:,}",
            skipped or "none skipped",
        )
        row("collected", f"{collected['tokens']:,} tokens in {collected['seconds']:.1f} s")
    for key in ("probe", "probe_next"):
        if key in summary:
            _probe_rows(row, summary[key])
    if "lesion" in summary:
        _lesion_rows(row, summary["lesion"])
    return table


def _title(summary: dict[str, Any]) -> str:
    model, bank = summary.get("model") or {}, summary.get("treebank") or {}
    return f"{model.get('name')} on {bank.get('train')}, tested on {bank.get('fresh')}"


def _probe_rows(row: Any, probe: dict[str, Any]) -> None:
    row(
        f"probe accuracy at '{probe['position']}'",
        f"{probe['accuracy']:.3f} with {probe['n_neurons']} neurons (top {probe['k']} per label)",
        f"random neurons {probe['random_accuracy']:.3f}, word alone "
        f"{probe['word_baseline_accuracy']:.3f}, majority {probe['majority_accuracy']:.3f}, "
        f"control task {probe['control_accuracy']:.3f}",
    )


def _lesion_rows(row: Any, lesion: dict[str, Any]) -> None:
    n = len(lesion["labels"])
    sham = lesion["sham_mean"]
    own = sum(sham[i][i] for i in range(n)) / n
    p = lesion["p_value"]
    row(
        "tag loss, intact",
        f"{lesion['base_tag_loss']:.3f} nats",
        f"tag entropy {lesion['tag_entropy']:.3f}",
    )
    row(
        f"a tag's top {lesion['k']} neurons cut ({lesion['value']})",
        f"its own tag loss {lesion['diagonal_mean']:+.3f} nats",
        f"other tags {lesion['off_diagonal_mean']:+.3f}, its shams {own:+.3f}",
    )
    row(
        "selective damage",
        "no shams" if p is None else f"p = {p:.3f}",
        f"{lesion['n_shams']} sham replicates, {lesion['words']:,} fresh words",
    )
    pairs = lesion["crossed_pairs"]
    row(
        "double dissociations",
        f"{len(pairs)} of {n * (n - 1) // 2} pairs",
        f"{sum(bool(confirmed) for *_, confirmed in pairs)} confirmed by AUROC",
    )
