"""A run as one self-contained HTML page, and its figures as files.

The page loads nothing: plotly.js, styles and data are inside it, and its content security policy
forbids everything else. Words, labels and names are data and are escaped wherever they appear.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from grammar_lens import __version__, figures
from grammar_lens.dissociation import LesionStudy
from grammar_lens.probing import ProbeResult
from grammar_lens.run import write_text
from grammar_lens.selection import KeyNeurons
from grammar_lens.selectivity import Scores
from grammar_lens.subspace import layer_strength

TOP = 10
"""Key neurons of each label in the table."""

LABEL_NAMES = {
    "upos": "part of speech",
    "xpos": "part of speech",
    "deprel": "grammatical relation",
}
PERCEPTION = {
    "word": "at the word: the model has just read it",
    "next": "before the word: the model is about to say it",
}
DASH = "\N{EN DASH}"
LESION_NAMES = {"mean": "their mean over words", "zero": "zero"}


@runtime_checkable
class ResultsLike(Protocol):
    """What a report reads of one position; `grammar_lens.run.Results` is one."""

    @property
    def position(self) -> str: ...
    @property
    def scores(self) -> Scores: ...
    @property
    def keys(self) -> KeyNeurons: ...
    @property
    def probe(self) -> ProbeResult | None: ...


@runtime_checkable
class RunLike(Protocol):
    """What a report reads of a run; `grammar_lens.run.Run` is one."""

    @property
    def path(self) -> Path: ...
    @property
    def record(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def positions(self) -> tuple[str, ...]: ...
    @property
    def study(self) -> LesionStudy | None: ...
    def has(self, step: str) -> bool: ...
    def at(self, position: str) -> ResultsLike: ...


@dataclass(frozen=True)
class Picture:
    """A figure as JSON for the page, and what it shows in words for those who do not see it."""

    name: str
    choice: str
    json: Markup
    height: int
    description: str


@dataclass(frozen=True)
class Table:
    """A table of the page; a cell is its text and what it is sorted by."""

    columns: tuple[str, ...]
    rows: list[list[tuple[str, str | float | int]]]

    def is_number(self, column: int) -> bool:
        """Whether a column is sorted by size."""
        return all(isinstance(row[column][1], int | float) for row in self.rows)


@dataclass(frozen=True)
class Section:
    """What the page shows of one position."""

    position: str
    scores: Scores
    keys: KeyNeurons
    n_key: int
    n_shared: int
    """Neurons that are key to more than one label."""
    bin_width: int
    heatmaps: list[Picture]
    profile: Picture
    overlap: Picture
    key_table: Table
    probe: ProbeResult | None
    accuracy: Picture | None
    confusion: Picture | None
    probe_table: Table | None


@dataclass(frozen=True)
class Bar:
    """A number with its name, and its size beside the others as a share in [0, 1]."""

    name: str
    text: str
    share: float


def write_report(run: RunLike, path: str | Path) -> Path:
    """The run as one HTML file that needs no network; steps not yet done are named as missing."""
    target = Path(path)
    write_text(target, render(run))
    return target


def render(run: RunLike) -> str:
    """The report's HTML."""
    style, script = _asset("report_template.css"), _asset("report_template.js")
    plotly = figures.plotly_js().replace("\r\n", "\n")
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters["signed"] = _signed
    template = page.from_string(_asset("report_template.html.jinja"))
    return template.render(
        **_contents(run),
        style=Markup(style),
        script=Markup(script),
        plotly=Markup(plotly),
        script_hashes=[_hash(plotly), _hash(script)],
    )


def write_figures(run: RunLike, folder: str | Path) -> list[Path]:
    """Every figure as its own HTML file, heatmaps with every neuron, and one plotly.min.js.

    Returns the files that were written. Needs no network to open.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "plotly.min.js", figures.plotly_js())
    written = [target / "plotly.min.js"]
    for name, figure in _all_figures(run):
        html = figure.to_html(include_plotlyjs="directory", config=_CONFIG)
        write_text(target / f"{name}.html", html)
        written.append(target / f"{name}.html")
    return written


_CONFIG = {"displaylogo": False, "plotlyServerURL": "", "responsive": True}


def _all_figures(run: RunLike) -> Iterator[tuple[str, Any]]:
    for results in _results(run):
        where, scores, keys = results.position, results.scores, results.keys
        for i, label in enumerate(scores.labels):
            n_units = scores.values.shape[2]
            figure = figures.layer_neuron_heatmap(scores, label, bins=n_units)
            yield f"heatmap-{where}-{i + 1:02d}-{_slug(label)}", figure
        yield f"layer-profile-{where}", figures.layer_profile(scores, keys)
        yield f"overlap-{where}", figures.overlap_matrix(keys)
        if results.probe is not None:
            yield f"probe-{where}", figures.probe_accuracy(results.probe)
            yield f"confusion-{where}", figures.confusion(results.probe)
    study = run.study
    if study is not None:
        yield "lesion-matrix", figures.lesion_matrix(study)
        if study.n_shams:
            yield "lesion-matrix-minus-shams", figures.lesion_matrix(study, corrected=True)
            yield "lesion-null", figures.lesion_null(study)


def _results(run: RunLike) -> list[ResultsLike]:
    """What there is at each position; nothing before the neurons have been chosen."""
    if not (run.has("collect") and run.has("score") and run.has("select")):
        return []
    return [run.at(position) for position in run.positions]


def _contents(run: RunLike) -> dict[str, Any]:
    """Everything the template shows."""
    found = _results(run)
    study, probe = run.study, _main_probe(found)
    config = run.record.get("config", {})
    label = found[0].scores.origin.label if found else str(config.get("label", "upos"))
    model = found[0].scores.origin.model if found else str(config.get("model", "the model"))
    alignment = run.summary.get("alignment", run.record.get("alignment", {}))
    return {
        "version": __version__,
        "run_name": run.path.name,
        "model": model,
        "label": label,
        "label_name": LABEL_NAMES.get(label, label.removeprefix("feats:").lower()),
        "started": _day(run.record.get("started")),
        "found": found,
        "sections": [_section(results) for results in found],
        "perception": PERCEPTION,
        "probe": probe,
        "probe_bars": _probe_bars(probe) if probe else [],
        "study": study,
        "lesion_value": LESION_NAMES.get(study.value, study.value) if study else "",
        "lesion_bars": _lesion_bars(study) if study else [],
        "p_bars": _p_bars(study) if study and study.n_shams else [],
        "lesion_pictures": _lesion_pictures(study) if study else [],
        "null_picture": _null_picture(study) if study and study.n_shams else None,
        "pair_table": _pair_table(study) if study else None,
        "lesion_table": _lesion_table(study) if study else None,
        "alignment": alignment,
        "skipped_table": _skipped_table(alignment, study),
        "settings": _flat(config),
        "provenance": _flat({k: v for k, v in run.record.items() if k != "config"}),
        "score_name": figures.score_name,
        "unit_name": figures.unit_name,
        "top": TOP,
    }


def _main_probe(found: Sequence[ResultsLike]) -> ProbeResult | None:
    """The probe at the word where there is one."""
    probes = [r.probe for r in found if r.probe is not None]
    return next((p for p in probes if p.position == "word"), probes[0] if probes else None)


def _section(results: ResultsLike) -> Section:
    """The pictures and tables of one position."""
    where, scores, keys, probe = results.position, results.scores, results.keys, results.probe
    owners = _owners(keys)
    return Section(
        position=where,
        scores=scores,
        keys=keys,
        n_key=len(owners),
        n_shared=sum(len(labels) > 1 for labels in owners.values()),
        bin_width=figures.bin_width(keys.n_units),
        heatmaps=[_heatmap_picture(scores, x, where) for x in scores.labels],
        profile=_picture(
            f"profile-{where}", figures.layer_profile(scores, keys), _profile_words(scores)
        ),
        overlap=_picture(
            f"overlap-{where}",
            figures.overlap_matrix(keys),
            "Matrix of the Jaccard overlap of the key neurons of every two labels.",
        ),
        key_table=_key_table(scores, keys),
        probe=probe,
        accuracy=_accuracy_picture(probe) if probe else None,
        confusion=_confusion_picture(probe) if probe else None,
        probe_table=_probe_table(probe) if probe else None,
    )


def _heatmap_picture(scores: Scores, label: str, where: str) -> Picture:
    values = scores[label]
    layer, index = np.unravel_index(int(np.abs(values).argmax()), values.shape)
    words = (
        f"Heatmap of the {figures.score_name(scores.method)} of every neuron with {label}. The "
        f"strongest is neuron {layer}.{index} at {values[layer, index]:+.3f}."
    )
    return _picture(
        f"heatmap-{where}", figures.layer_neuron_heatmap(scores, label), words, choice=label
    )


def _profile_words(scores: Scores) -> str:
    strength = layer_strength(scores)
    peaks = ", ".join(
        f"{label} in layer {row.argmax()}"
        for label, row in zip(scores.labels, strength, strict=True)
    )
    return (
        f"Lines of the root mean square score in every layer, one for each label. Peaks: {peaks}."
    )


def _accuracy_picture(probe: ProbeResult) -> Picture:
    words = (
        f"Bars of accuracy: key neurons {probe.accuracy:.3f}, random neurons "
        f"{probe.random_accuracy:.3f}, all of layer {probe.layer} {probe.layer_accuracy:.3f}, word "
        f"alone {probe.word_baseline_accuracy:.3f}, majority {probe.majority_accuracy:.3f}, control "
        f"task {probe.control_accuracy:.3f}."
    )
    return _picture(f"accuracy-{probe.position}", figures.probe_accuracy(probe), words)


def _confusion_picture(probe: ProbeResult) -> Picture:
    wrong = probe.confusion - np.diag(np.diag(probe.confusion))
    i, j = np.unravel_index(int(wrong.argmax()), wrong.shape)
    words = "Confusion matrix of the probe, each row as shares of that label's words."
    if wrong[i, j]:
        words += (
            f" The most frequent confusion: {wrong[i, j]:,} words of {probe.labels[i]} called "
            f"{probe.labels[j]}."
        )
    return _picture(f"confusion-{probe.position}", figures.confusion(probe), words)


def _lesion_pictures(study: LesionStudy) -> list[Picture]:
    words = (
        "Matrix of the rise in tag loss of every label's words under every lesion. Mean on the "
        f"diagonal {study.diagonal_mean:.3f} nats, off it {study.off_diagonal_mean:.3f}."
    )
    raw = figures.lesion_matrix(study)
    pictures = [_picture("lesion-matrix", raw, words, choice="as measured")]
    if study.n_shams:
        less = figures.lesion_matrix(study, corrected=True)
        words = f"{words} Here the mean of the shams is subtracted."
        pictures.append(_picture("lesion-matrix", less, words, choice="minus the shams' mean"))
    return pictures


def _null_picture(study: LesionStudy) -> Picture:
    words = (
        f"Histogram of S* of {study.n_shams} shams, from {study.s_star_sham.min():.2f} to "
        f"{study.s_star_sham.max():.2f}; the real lesions have {study.s_star:.2f}."
    )
    return _picture("lesion-null", figures.lesion_null(study), words)


def _picture(name: str, figure: Any, description: str, *, choice: str = "") -> Picture:
    return Picture(
        name=name,
        choice=choice,
        json=_script_json(figure.to_json()),
        height=int(figure.layout.height),
        description=description,
    )


def _script_json(text: str) -> Markup:
    """JSON that cannot end or open a script element."""
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _key_table(scores: Scores, keys: KeyNeurons) -> Table:
    """The first key neurons of every label, with effect size and the labels that share them."""
    owners = _owners(keys)
    rows = []
    for label in keys.labels:
        effect = scores.effect[scores.labels.index(label)]
        best = keys[label].top(TOP)
        for rank, (address, value) in enumerate(zip(best, best.score.tolist(), strict=True), 1):
            others = [x for x in owners[address] if x != label]
            shared = ", ".join(others[:3]) + (f" + {len(others) - 3} more" if others[3:] else "")
            d = float(effect[address])
            rows.append(
                [
                    (label, label),
                    (str(rank), rank),
                    (f"{address[0]}.{address[1]}", address[0] * keys.n_units + address[1]),
                    (_signed(value), value),
                    (_signed(d), d),
                    (shared, shared),
                ]
            )
    unit = figures.unit_name(keys.origin.site)
    name = figures.score_name(scores.method)
    return Table(
        ("Tag", "Rank", f"{unit.title()} (layer.index)", name, "Cohen's d", "Also key for"), rows
    )


def _owners(keys: KeyNeurons) -> dict[tuple[int, int], list[str]]:
    """The labels that every key neuron is key to."""
    owners: dict[tuple[int, int], list[str]] = {}
    for label in keys.labels:
        for address in keys[label]:
            owners.setdefault(address, []).append(label)
    return owners


def _probe_table(probe: ProbeResult) -> Table:
    rows = []
    for label in probe.labels:
        row = probe.per_label.loc[label]
        numbers = [float(row[x]) for x in ("precision", "recall", "f1")]
        n_words = int(row["n_words"])
        # without words there is no recall to speak of
        shown = [f"{x:.3f}" if n_words else DASH for x in numbers]
        rows.append(
            [
                (label, label),
                (f"{n_words:,}", n_words),
                *zip(shown, numbers, strict=True),
            ]
        )
    return Table(("Tag", "Fresh words", "Precision", "Recall", "F1"), rows)


def _pair_table(study: LesionStudy) -> Table:
    rows = [
        [
            (f"{p.first} and {p.second}", f"{p.first} {p.second}"),
            (f"{p.p:.2g}", p.p),
            (f"{p.margin:.2f}", p.margin),
            (f"{p.threshold:.2f}", p.threshold),
            ("confirmed" if p.confirmed else "possibly a bias shift", str(p.confirmed)),
        ]
        for p in study.crossed_pairs
    ]
    return Table(("Pair", "p (Holm)", "Margin", "Shams' 95th percentile", "By AUROC"), rows)


def _lesion_table(study: LesionStudy) -> Table:
    rows = []
    for record in study.to_frame().to_dict("records"):
        cut, label, n_words = str(record["lesion"]), str(record["label"]), int(record["n_words"])
        names = ("tag_loss_change", "sham_mean", "nll_change", "auroc_fall", "bias")
        numbers = [float(record[name]) for name in names]
        rows.append(
            [
                (cut, cut),
                (label, label),
                (f"{n_words:,}", n_words),
                *((_signed(x), x) for x in numbers),
            ]
        )
    return Table(
        (
            *("Neurons cut of", "Words tagged", "Words", "Tag loss (nats)", "Shams (nats)"),
            *("NLL (nats)", "Fall in AUROC", "Bias"),
        ),
        rows,
    )


def _skipped_table(alignment: Mapping[str, Any], study: LesionStudy | None) -> Table:
    """What was left out and why: while aligning, at each position, and in the lesion study."""
    read = alignment.get("not_read")
    parts = (
        {f"training, read at “{position}”": counts for position, counts in read.items()}
        if read
        else {"training": alignment.get("skipped", {})}
    )
    if study is not None:
        parts["lesion study, fresh words"] = study.skipped
    rows = [
        [(part, part), (str(reason), str(reason)), (f"{n:,}", n)]
        for part, counts in parts.items()
        for reason, n in counts.items()
    ]
    return Table(("Where", "Reason", "Words"), rows)


def _probe_bars(probe: ProbeResult) -> list[Bar]:
    numbers = (
        ("key neurons", probe.accuracy),
        ("random neurons", probe.random_accuracy),
        ("majority label", probe.majority_accuracy),
    )
    return [Bar(name, f"{x:.3f}", x) for name, x in numbers]


def _lesion_bars(study: LesionStudy) -> list[Bar]:
    numbers = [("its own words", study.diagonal_mean), ("other words", study.off_diagonal_mean)]
    if study.n_shams:
        numbers.append(("own words, shams", float(np.diag(study.sham_mean).mean())))
    return _bars(numbers)


def _p_bars(study: LesionStudy) -> list[Bar]:
    return _bars(
        [
            ("S* of the real lesions", study.s_star),
            ("largest of the shams", float(study.s_star_sham.max())),
            ("mean of the shams", float(study.s_star_sham.mean())),
        ]
    )


def _bars(numbers: Iterable[tuple[str, float]]) -> list[Bar]:
    """Bars on the scale of the largest; what is below zero has no length."""
    listed = list(numbers)
    most = max(1e-12, *(x for _, x in listed))
    return [Bar(name, _signed(x), max(x, 0) / most) for name, x in listed]


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows of name and text."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{name} / ")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value)) or DASH))
        else:
            rows.append((name, DASH if value is None or value in ("", {}) else str(value)))
    return rows


def _signed(value: float) -> str:
    return figures.number(value, 3, plus=True)


def _day(started: object) -> str:
    """An ISO time stamp as a date; other text as it is."""
    try:
        return f"{datetime.fromisoformat(str(started)):%d %B %Y}".lstrip("0")
    except ValueError:
        return str(started or "")


def _slug(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:40] or "label"


def _asset(name: str) -> str:
    return resources.files("grammar_lens").joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """A script's source hash for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
