"""A lesion that cannot reach the logits is an error; one that has nothing to change is not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import grammar_lens as gl
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions import effect_check
from grammar_lens.lesions.effect_check import require_effects
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import Neurons

IDS = (np.array([0, 5, 9, 12]),)
SAME = np.ones((2, 3))


def cut(indices: list[int], dose: float = 1.0) -> Condition:
    index = np.array(indices, np.int64)
    neurons = Neurons("NOUN", "neuron", np.ones_like(index), index, np.ones(len(index)))
    return Condition("NOUN", 0, neurons, Ablation("zero", dose))


def refuse_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model at which hooks have no effect."""
    import contextlib

    monkeypatch.setattr(effect_check, "hooked", lambda *_: contextlib.nullcontext())


def test_neurons_that_write_and_cannot_be_edited(tiny: Model, monkeypatch: pytest.MonkeyPatch):
    refuse_hooks(monkeypatch)
    with pytest.raises(GrammarLensError, match=r"lesion of 2 neurons .* changes no logit, though"):
        require_effects(tiny, [cut([3, 4])], SAME, IDS)


def test_only_lesions_that_changed_nothing_are_looked_at(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
):
    refuse_hooks(monkeypatch)
    changed = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.5]])
    require_effects(tiny, [cut([3, 4])], changed, IDS)
    require_effects(tiny, [cut([3, 4], dose=0.0)], SAME, IDS)
    require_effects(tiny, [cut([])], SAME, IDS)


def test_neurons_that_do_not_write(make_tiny: Callable[[], Model], monkeypatch: pytest.MonkeyPatch):
    model = make_tiny()
    with torch.no_grad():
        model.original_model.model.layers[1].mlp.down_proj.weight[:, 3] = 0
    refuse_hooks(monkeypatch)
    require_effects(model, [cut([3])], SAME, IDS)


def test_silent_neurons_are_rightly_unchanged(tiny: Model):
    """They could be edited, so that the lesion changed nothing says something of them."""
    require_effects(tiny, [cut([3])], SAME, IDS)


def test_a_battery_asks(tiny: Model, bank: gl.Treebank, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(
        "grammar_lens.lesions.battery.require_effects",
        lambda _model, conditions, losses, _ids: asked.append(losses.shape[0] - len(conditions)),
    )
    keys = gl.select(gl.score(gl.collect(tiny, bank["train"], position="next")["neuron"]), k=3)
    gl.lesion_study(tiny, bank["test"], keys, shams=0, lexicon=bank["train"])
    assert set(asked) == {1}
