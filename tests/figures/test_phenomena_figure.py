"""The figure of phenomena: a row for every lesion, a column for every phenomenon."""

import numpy as np
import pytest
from made_phenomena import PHENOMENA, made_phenomena
from traces import traces_of

from grammar_lens import figures
from grammar_lens.errors import GrammarLensError


def test_falls_of_phenomena_and_tags_with_stars() -> None:
    study = made_phenomena()
    (heat,) = traces_of(figures.phenomena_matrix(study))
    assert study.tags is not None
    np.testing.assert_array_equal(heat.z, np.concatenate([study.own.fall, study.tags.fall]))
    assert list(heat.y) == [*PHENOMENA, "NOUN", "VERB"]
    assert list(heat.x) == list(PHENOMENA)
    assert heat.text[0][0] == "2.00*"
    assert "40 pairs of binding" in heat.hovertext[3][1]
    assert "shams 0.05" in heat.hovertext[0][1]
    assert "shams 0.60" in heat.hovertext[3][1], "those that decide are matched by damage"


def test_accuracies_with_the_intact_model_first() -> None:
    study = made_phenomena(tags=None)
    (heat,) = traces_of(figures.phenomena_matrix(study, cells="accuracy"))
    assert list(heat.y) == ["intact", *PHENOMENA]
    np.testing.assert_array_equal(heat.z[0], study.intact.accuracy)
    np.testing.assert_array_equal(heat.z[1:], study.own.accuracy)


def test_unknown_cells() -> None:
    with pytest.raises(GrammarLensError, match="cells is 'p', expected one of fall, accuracy"):
        figures.phenomena_matrix(made_phenomena(), cells="p")
