"""Intervals of a lesion matrix, and the weakest difference of a pair, on planted damage."""

from dataclasses import replace

import numpy as np
import pytest
from made_batteries import LABELS, battery, planted, study_of
from traces import traces_of

from grammar_lens import figures
from grammar_lens.dissociation.intervals import cell_intervals
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.lesions.outcomes import Outcomes
from grammar_lens.runs.store.results import outcome_table


def test_intervals_hold_the_mean_and_are_as_wide_as_the_noise_makes_them(
    study: LesionStudy,
) -> None:
    low, high = np.moveaxis(cell_intervals(study), -1, 0)
    assert ((low < study.matrix) & (study.matrix < high)).all()
    # one word of each label in 40 sentences, noise of sd 0.3: 2 x 1.96 x 0.3 / sqrt(40) = 0.186
    np.testing.assert_allclose((high - low).mean(), 0.186, rtol=0.15)


def test_intervals_cover_the_planted_damage_as_often_as_they_say() -> None:
    truth = planted(n_shams=1)[:1]
    covered = []
    for seed in range(20):
        made = study_of(battery(truth, LABELS, seed=seed), LABELS, n_bootstrap=2)
        low, high = np.moveaxis(cell_intervals(made, n_draws=300), -1, 0)
        covered.append((low <= truth[0]) & (truth[0] <= high))
    # 720 cells at 95 %: three standard errors of the share are 2.4 %, and 40 sentences cost 1.5 %
    assert 0.91 < np.mean(covered) < 0.975


def test_the_losses_of_a_run_give_the_same_intervals(
    study: LesionStudy, outcomes: Outcomes
) -> None:
    words = outcome_table(outcomes, tuple("x" for _ in outcomes.word))
    stored = replace(study, outcomes=None)
    # losses of a run are float32
    np.testing.assert_allclose(cell_intervals(stored, words), cell_intervals(study), atol=1e-5)
    with pytest.raises(NotMeasuredError, match=r"run\.lesions"):
        cell_intervals(stored)
    with pytest.raises(GrammarLensError, match="give run"):
        cell_intervals(stored, words.loc[words["lesion"] != "VERB"])


def test_the_weakest_difference_is_the_smallest_of_four(study: LesionStudy) -> None:
    m = study.corrected
    i, j = 0, 2
    four = [m[i, i] - m[i, j], m[i, i] - m[j, i], m[j, j] - m[i, j], m[j, j] - m[j, i]]
    assert study.weakest[i, j] == study.weakest[j, i] == pytest.approx(min(four))


def test_cells_say_what_was_asked_for(study: LesionStudy) -> None:
    def text(cells: str) -> np.ndarray:
        return np.array(traces_of(figures.lesion_matrix(study, cells=cells))[0].text, object)

    weakest, interval = text("weakest"), text("interval")
    assert weakest[0, 2].startswith(f"{study.weakest[0, 2]:+.2f}".replace("-", "\N{MINUS SIGN}"))
    assert weakest[0, 0].startswith(f"{study.matrix[0, 0]:.2f}")
    low, high = cell_intervals(study)[0, 0]
    assert interval[0, 0].endswith(f"<br>[{low:.2f}, {high:.2f}]".replace("0.", "."))
    with pytest.raises(GrammarLensError, match="cells is 'stars'"):
        figures.lesion_matrix(study, cells="stars")


def test_a_result_as_csv_and_latex(
    study: LesionStudy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tables") / "study.tex"
    text = study.to_latex(path, digits=2)
    assert path.read_text("utf-8") == text
    assert r"tag\_loss\_change" in text
    assert rf"& {study.matrix[0, 0]:.2f} &" in text
    assert study.to_csv().splitlines()[0].startswith("lesion,label,tag_loss_change")
    assert len(study.to_csv().splitlines()) == 1 + len(LABELS) ** 2
