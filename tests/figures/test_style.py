"""One style: colours that anyone can tell apart, axes that say what they show, pictures as files."""

import os
import shutil
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from made_figures import LABELS, every_figure, made_calibration, made_examples, made_redundancy
from traces import layout_of, traces_of

from grammar_lens import figures
from grammar_lens.figures import style

# Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB
SIGHT = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def seen(colour: str, sight: str) -> np.ndarray:
    """A colour in CIELAB (D65) as someone sees it: lightness, red to green, yellow to blue."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    t = XYZ @ np.clip(np.array(SIGHT[sight]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(a: str, b: str, sight: str) -> float:
    """CIE76 difference; about 2.3 is just noticeable side by side."""
    return float(np.linalg.norm(seen(a, sight) - seen(b, sight)))


def test_the_measure_of_colours() -> None:
    assert seen("#ffffff", "full") == pytest.approx([100, 0, 0], abs=0.02)
    assert seen("#ff0000", "full") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    # red and green of equal lightness look alike without one kind of cones
    assert apart("#c83c3c", "#6e7d1e", "deuteranopia") < 15 < apart("#c83c3c", "#6e7d1e", "full")


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_everyone(sight: str) -> None:
    worst = min(apart(a, b, sight) for a, b in combinations(style.COLOURS, 2))
    assert worst > 15
    assert min(apart(c, "#ffffff", sight) for c in style.COLOURS) > 25
    for pair in combinations((style.ACCENT, style.CONTRAST, style.SHAMS, style.INK), 2):
        assert apart(*pair, sight) > 15, pair
    assert apart(style.ACCENT, "#f0a35e", sight) > 50  # the parts of the loss


@pytest.mark.parametrize("sight", SIGHT)
def test_scales_have_steps_for_everyone(sight: str) -> None:
    for scale in (style.DIVERGING, style.SEQUENTIAL):
        assert min(apart(a, b, sight) for a, b in pairwise(scale)) > 12
    for low, high in zip(style.DIVERGING[:3], style.DIVERGING[::-1], strict=False):
        assert apart(low, high, sight) > 40  # above and below 0 are not confused


def test_scales_survive_grey_print() -> None:
    light = np.array([seen(c, "full")[0] for c in style.DIVERGING])
    middle = len(light) // 2
    assert (np.diff(light[: middle + 1]) > 10).all()
    assert (np.diff(light[middle:]) < -10).all()
    np.testing.assert_allclose(light, light[::-1], atol=4)  # equally dark at both ends
    sequential = np.array([seen(c, "full")[0] for c in style.SEQUENTIAL])
    assert (np.diff(sequential) < -8).all()


def test_lines_are_told_apart_without_colour() -> None:
    """Of the first 42 labels none have the same colour, dash and symbol."""
    ways = [style.line_style(i) for i in range(42)]
    looks = {(w["line"]["color"], w["line"]["dash"], w["marker"]["symbol"]) for w in ways}
    assert len(looks) == 42
    neighbours = [(w["line"]["dash"], w["marker"]["symbol"]) for w in ways[:7]]
    assert len(set(neighbours)) >= 6


def all_figures() -> list[go.Figure]:
    return [
        *every_figure(LABELS, "m"),
        figures.calibration(made_calibration()),
        figures.redundancy(made_redundancy()),
    ]


NAMES_ALONE = {"Can the label be read from the neurons?", "Selective, or only more damage?"}
"""Figures with an axis whose categories say what they are."""
WITHOUT_UNIT = {
    *("layer", "neuron within its layer", "k", "key neurons", "called", "gold label", "words of"),
    *("neurons cut of", "neurons kept of", "words tagged", "key neurons of", "sham replicates"),
    *("tag loss of", "correlation r", "fall in AUROC", "shift of P(tag) at<br>other tags' words"),
    *("k, neurons per label (log scale)", "neurons of the tag cut so far", "activation"),
    *("activation there, label of the word", "share of the label's words"),
    *("root mean square<br>correlation r", "mean strength: correlation r"),
}


def test_every_axis_says_what_it_shows_and_in_which_unit() -> None:
    for figure in all_figures():
        title = layout_of(figure).title.text
        axes: list[Any] = [*figure.select_xaxes(), *figure.select_yaxes()]
        for axis in axes:
            told = axis.title.text
            if axis.showticklabels is False or (axis.plotly_name == "yaxis" and _alone(title)):
                continue
            assert told, (title, axis.plotly_name)
            assert "(" in told or told in WITHOUT_UNIT, (title, told)
        for trace in traces_of(figure):
            if trace.type == "heatmap" and trace.showscale is not False:
                told = trace.colorbar.title.text
                assert "(" in told or told in WITHOUT_UNIT, (title, told)


def _alone(title: str) -> bool:
    return any(title.startswith(name) for name in NAMES_ALONE)


def test_no_figure_sets_larger_type_for_a_title_of_its_own() -> None:
    for figure in all_figures():
        assert {a.font.size for a in layout_of(figure).annotations} <= {11, 13, None}


@pytest.mark.browser
def test_figures_are_written_as_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG and SVG by plotly itself, through kaleido and a local Chromium."""
    pytest.importorskip("kaleido")
    found = os.environ.get("GRAMMAR_LENS_CHROMIUM") or shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium: install it or set GRAMMAR_LENS_CHROMIUM to its path")
    monkeypatch.setenv("BROWSER_PATH", found)
    figure = figures.concordance(made_examples())
    for name in ("figure.png", "figure.svg"):
        figure.write_image(tmp_path / name, width=800)
    assert (tmp_path / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.startswith("<svg")
    assert ">·dog</" in drawn
