"""Images for a paper have the width, the font and the marks of the size that was asked for."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from test_figures import LABELS, made_moments
from traces import layout_of, traces_of

from grammar_lens import figures
from grammar_lens.errors import GrammarLensError
from grammar_lens.selectivity.scoring import score


@pytest.fixture
def figure() -> go.Figure:
    return figures.layer_profile(score(made_moments(LABELS)))


def test_a_column_wide_in_points(figure: go.Figure) -> None:
    sized = figures.for_paper(figure, width_mm=85, font_pt=7)
    assert layout_of(sized).width == round(85 / 25.4 * 96)
    points = layout_of(sized).template.layout.font.size * 72 / 96
    assert points == pytest.approx(7)
    scale = (7 / 72 * 96) / 13
    line, before = traces_of(sized)[0], traces_of(figure)[0]
    assert line.line.width == pytest.approx(before.line.width * scale)
    assert line.marker.size == pytest.approx(before.marker.size * scale)
    drawn, given = sized.to_dict()["data"][0], figure.to_dict()["data"][0]
    assert drawn["y"] == given["y"], "data are not lengths"
    assert layout_of(sized).title.text is None
    assert layout_of(sized).height < layout_of(figure).height * scale
    assert layout_of(figure).title.text, "the figure itself stays as it was"


def test_height_and_title_on_request(figure: go.Figure) -> None:
    sized = figures.for_paper(figure, height_mm=60, title=True)
    assert layout_of(sized).height == round(60 / 25.4 * 96)
    assert layout_of(sized).title.text == layout_of(figure).title.text


@pytest.mark.parametrize("options", [{"width_mm": 0}, {"font_pt": -1}, {"height_mm": float("nan")}])
def test_sizes_that_make_no_sense(figure: go.Figure, options: dict[str, Any]) -> None:
    with pytest.raises(GrammarLensError, match="above 0"):
        figures.for_paper(figure, **options)


def test_an_unknown_format(figure: go.Figure, tmp_path: Path) -> None:
    with pytest.raises(GrammarLensError, match="format is 'bmp'"):
        figures.write_image(figure, tmp_path / "a.bmp")


def test_all_names_of_many_labels_stand_below(tmp_path: Path) -> None:
    labels = tuple(f"LABEL{i}" for i in range(17))
    sized = figures.for_paper(figures.layer_profile(score(made_moments(labels))), width_mm=85)
    layout = layout_of(sized)
    assert layout.legend.orientation == "h"
    columns = layout.width // (layout.legend.entrywidth + 40)
    assert layout.margin.b >= 19 * -(-17 // columns)
    assert layout.height - layout.margin.b - layout.margin.t > 100, "the axes keep their room"
