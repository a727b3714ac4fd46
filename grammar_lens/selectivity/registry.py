"""The registry of scores: the data each needs and how to read its values."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Method:
    """A score: its formula, the evidence it needs, and the direction of its values.

    `needs` is "moments" or the name of another field of `Evidence`. Values are strong where they are
    "far" from `neutral` on either side, "high" or "low", as `best` says. `class_means_suffice` holds
    where the values depend on counts, class means and the total variance alone, so that an exchange
    null can be had from class sums. `reference_test` names what the tests compare it with.
    """

    name: str
    needs: str
    module: str
    best: str
    neutral: float
    class_means_suffice: bool
    summary: str
    unit: str
    source: str
    reference_test: str

    @property
    def is_first_order(self) -> bool:
        """Whether it is made of first-order effects, of gradients or of relevance."""
        return self.needs in ("attribution", "relevance")

    @property
    def at_next_only(self) -> bool:
        """Whether it is of the prediction of a word, which is made at the token before it."""
        return self.is_first_order or self.needs == "integrated_gradients"

    @property
    def compute(self) -> Callable[..., Any]:
        """The function of `Evidence` with the score's name; it brings in NumPy when first used."""
        return getattr(import_module(f"grammar_lens.selectivity.{self.module}"), self.name)


_METHODS = (
    Method(
        name="correlation",
        needs="moments",
        module="from_moments",
        best="far",
        neutral=0.0,
        class_means_suffice=True,
        summary="correlation of the activation with “the word has this label”",
        unit="r, -1 to 1",
        source="Lev 1949",
        reference_test="scipy.stats.pointbiserialr",
    ),
    Method(
        name="cohens_d",
        needs="moments",
        module="from_moments",
        best="far",
        neutral=0.0,
        class_means_suffice=True,
        summary="label's mean minus that of the rest, divided by their pooled standard deviation",
        unit="pooled sd",
        source="Cohen 1988",
        reference_test="NumPy, textbook formula",
    ),
    Method(
        name="welch_t",
        needs="moments",
        module="from_moments",
        best="far",
        neutral=0.0,
        class_means_suffice=False,
        summary="label's mean minus that of the rest, divided by its standard error with unequal variances",
        unit="standard errors",
        source="Welch 1947",
        reference_test="scipy.stats.ttest_ind",
    ),
    Method(
        name="eta_squared",
        needs="moments",
        module="from_moments",
        best="high",
        neutral=0.0,
        class_means_suffice=True,
        summary="share of the variance between labels; one number per unit",
        unit="share, 0 to 1",
        source="Fisher 1925",
        reference_test="sklearn.feature_selection.f_classif",
    ),
    Method(
        name="probeless",
        needs="moments",
        module="from_moments",
        best="high",
        neutral=0.0,
        class_means_suffice=True,
        summary="sum of the distances of the label's mean from every other label's",
        unit="the activation's, from 0",
        source="Antverg & Belinkov 2022",
        reference_test="NumPy, two loops",
    ),
    Method(
        name="probeless_sd",
        needs="moments",
        module="from_moments",
        best="high",
        neutral=0.0,
        class_means_suffice=True,
        summary="`probeless` divided by the standard deviation over all words",
        unit="sd, from 0",
        source="Antverg & Belinkov 2022",
        reference_test="NumPy, two loops",
    ),
    Method(
        name="entropy",
        needs="moments",
        module="from_moments",
        best="low",
        neutral=0.0,
        class_means_suffice=False,
        summary="entropy of the label given that the unit fires, if all labels were equally frequent; "
        "for the unit's own label only",
        unit="nats, 0 to log(labels)",
        source="Tang et al. 2024",
        reference_test="scipy.stats.entropy",
    ),
    Method(
        name="auroc",
        needs="sample",
        module="from_sample",
        best="far",
        neutral=0.5,
        class_means_suffice=False,
        summary="chance that a word of the label has the larger activation than one of the rest",
        unit="probability, 0 to 1",
        source="Bamber 1975; Hand & Till 2001",
        reference_test="sklearn.metrics.roc_auc_score, pair by pair",
    ),
    Method(
        name="probe_weight",
        needs="sample",
        module="from_sample",
        best="far",
        neutral=0.0,
        class_means_suffice=False,
        summary="weight in an elastic-net classifier of all units together",
        unit="log-odds per sd",
        source="Dalvi et al. 2019",
        reference_test="sklearn.linear_model.LogisticRegression (saga)",
    ),
    Method(
        name="logit_contrast",
        needs="output_contrast",
        module="from_effects",
        best="far",
        neutral=0.0,
        class_means_suffice=False,
        summary="how much more the outgoing weight raises the logits of the label's words than "
        "those of other words",
        unit="logits per activation",
        source="Geva et al. 2022",
        reference_test="a forward pass with the unit raised",
    ),
    Method(
        name="attribution",
        needs="attribution",
        module="from_effects",
        best="high",
        neutral=0.0,
        class_means_suffice=False,
        summary="first-order rise of the label's tag loss when the unit is lesioned",
        unit="nats per word",
        source="Nanda 2023; Kramar et al. 2024",
        reference_test="as given by the evidence",
    ),
    Method(
        name="attribution_contrast",
        needs="attribution",
        module="from_effects",
        best="high",
        neutral=0.0,
        class_means_suffice=False,
        summary="`attribution` of the label minus the mean over the other labels of 100 words or more",
        unit="nats per word",
        source="Nanda 2023; Kramar et al. 2024",
        reference_test="NumPy, a loop over labels",
    ),
    Method(
        name="relevance",
        needs="relevance",
        module="from_effects",
        best="high",
        neutral=0.0,
        class_means_suffice=False,
        summary="`attribution` with relevance propagation in place of the gradient",
        unit="nats per word",
        source="RelP, arXiv 2508.21258",
        reference_test="autograd on a Llama written out",
    ),
    Method(
        name="relevance_contrast",
        needs="relevance",
        module="from_effects",
        best="high",
        neutral=0.0,
        class_means_suffice=False,
        summary="`relevance` of the label minus the mean over the other labels of 100 words or more",
        unit="nats per word",
        source="RelP, arXiv 2508.21258",
        reference_test="NumPy, a loop over labels",
    ),
    Method(
        name="integrated_gradients",
        needs="integrated_gradients",
        module="from_effects",
        best="high",
        neutral=0.0,
        class_means_suffice=False,
        summary="mean integrated gradient at the label's words",
        unit="probability or nats",
        source="Sundararajan et al. 2017; Dai et al. 2022",
        reference_test="as given by the evidence",
    ),
    Method(
        name="frequency",
        needs="integrated_gradients",
        module="from_effects",
        best="high",
        neutral=0.0,
        class_means_suffice=False,
        summary="share of the label's words at which the unit is among the word's largest "
        "integrated gradients",
        unit="share, 0 to 1",
        source="Norouzi et al. 2025",
        reference_test="as given by the evidence",
    ),
)
SCORES: dict[str, Method] = {method.name: method for method in _METHODS}
