"""Neurons and directions at equal damage: budgets by hand, LEACE by its own definition."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made_figures import made_equal_damage

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.dissociation.damage_budget import LEACE, MEANS, NEURONS, eraser
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.directions import Directions
from grammar_lens.lesions.edits import edits_of
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.probing.erasure import leace

LABELS = ("DET", "NOUN", "PRON", "VERB")
QUIET: dict[str, Any] = {"show_progress": False}


class TestBudget:
    def test_by_hand(self) -> None:
        """Neurons cost 0.4 dose and others 0.04 dose; the direction 0.8 dose^2 and others 0.2 dose."""
        found = made_equal_damage()
        table: Any = found.at_budget().set_index("lesion")
        assert table.loc[NEURONS, "budget"].tolist() == [0.2] * 3
        np.testing.assert_allclose(table.loc[NEURONS, "dose"], 0.5)
        np.testing.assert_allclose(table.loc[NEURONS, "specificity"], 1 - 0.02 / 0.2)
        # 0.8 dose^2 is 0.2 at dose 0.5
        np.testing.assert_allclose(table.loc[MEANS, "dose"], 0.5)
        np.testing.assert_allclose(table.loc[MEANS, "specificity"], 1 - 0.1 / 0.2)
        more: Any = found.at_budget(0.6).set_index("lesion")
        # between doses 0.5 and 1 a straight line from 0.2 to 0.8
        np.testing.assert_allclose(more.loc[MEANS, "dose"], 0.5 + 0.5 * 0.04 / 0.6)

    def test_what_costs_too_little_is_unknown(self) -> None:
        found = made_equal_damage()
        table: Any = found.at_budget().set_index("lesion")
        assert table.loc[LEACE, ["dose", "other", "specificity"]].isna().all(axis=None)
        summary: Any = found.summary().set_index("lesion")
        assert summary["labels"].to_dict() == {NEURONS: 3, MEANS: 3, LEACE: 0}
        assert summary.loc[MEANS, "specificity"] == pytest.approx(0.5)
        assert "LEACE" not in found.verdict()


class TestEraser:
    def test_it_is_leace_of_one_label_against_the_rest(self) -> None:
        rng = np.random.default_rng(0)
        classes = np.repeat([0, 1], [300, 200])
        x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + np.outer(
            classes, rng.normal(size=6)
        )
        gap, centre = x[classes == 1].mean(0) - x.mean(0), x.mean(0)
        found = eraser("B", gap, centre, np.cov(x.T, ddof=0), layer=1)
        assert found.writes is not None
        erased = x - (x - centre) @ found.basis.T @ found.writes
        np.testing.assert_allclose(erased, leace(x, classes, 2)(x), atol=1e-8)
        assert np.abs(erased[classes == 1].mean(0) - erased[classes == 0].mean(0)).max() < 1e-9

    def test_a_lesion_of_it_erases(self, tiny: Model) -> None:
        rng = np.random.default_rng(1)
        reads, writes = rng.normal(size=(2, 1, 32))
        units = Directions("x", "resid_post", 0, reads, np.ones(32), writes)
        x = rng.normal(size=(5, 32))
        for dose in (1.0, 0.5):
            (edit,) = edits_of(tiny, units, Ablation("mean", dose))
            changed = torch.from_numpy(x.copy()).float()
            edit.to(changed).change(changed, None)
            expected = x - dose * (x - 1) @ reads.T @ writes
            np.testing.assert_allclose(changed.numpy(), expected, atol=1e-4)


@pytest.fixture(scope="module")
def keys(tiny: Model, bank: Treebank) -> KeyNeurons:
    moments = gl.collect(tiny, bank["train"], labels=LABELS, **QUIET)["neuron"]
    return gl.select(gl.score(moments), k=12)


def test_rows_of_a_model(tiny: Model, bank: Treebank, keys: KeyNeurons) -> None:
    lexicon = gl.fit_lexicon(tiny, bank["train"])
    given: dict[str, Any] = {"labels": LABELS, "lexicon": lexicon, **QUIET}
    found = gl.equal_damage(
        tiny, bank["train"], bank["test"], keys, layers=[1], sentences=None, **given
    )
    assert len(found.table) == 4 * 3 * 4
    full: Any = found.table[found.table["dose"] == 1.0]
    assert np.isfinite(full[["own", "other"]].to_numpy()).all()
    study = gl.lesion_study(tiny, bank["test"], keys, shams=0, damage_matched=0, **given)
    rows: pd.DataFrame = full.loc[full["lesion"] == NEURONS]
    own = dict(zip(rows["label"], rows["own"], strict=True))
    for label, cost in zip(study.labels, np.diag(study.matrix), strict=True):
        assert own[label] == pytest.approx(cost, abs=1e-5)


def test_a_layer_that_does_not_exist(tiny: Model, bank: Treebank, keys: KeyNeurons) -> None:
    with pytest.raises(GrammarLensError, match="layer 2"):
        gl.equal_damage(tiny, bank["train"], bank["test"], keys, layers=[2], **QUIET)
