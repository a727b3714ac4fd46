"""The lesion study on the report page: numbers, figures, tables, and what was not measured."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar_lens import figures
from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import KEY, SizeCurves
from grammar_lens.figures.stills import matrix_still
from grammar_lens.figures.style import number
from grammar_lens.report import lesion_tables
from grammar_lens.report.pictures import Picture, picture

VALUE_NAMES = {
    "mean": "their mean over words",
    "zero": "zero",
    "resample": "what they do at a random other word",
    "resample_within": "what they do at another word of the same tag",
}
COMMAND = (
    "grammar-lens lesion RUN --damage-matched 20 --values mean,zero,resample "
    "--doses 1,0.25,0.5,0.75 --other-shams 10 --sufficiency --curves"
)
"""Measures everything that the page can show."""


@dataclass(frozen=True)
class Bar:
    """A number with its name, and its size beside the others as a share in [0, 1]."""

    name: str
    text: str
    share: float


@dataclass(frozen=True)
class Missing:
    """Something that was not measured, why it matters, and the option that measures it."""

    name: str
    why: str
    option: str


def lesion_contents(study: LesionStudy | None, curves: SizeCurves | None) -> dict[str, Any]:
    """Contents of the template's section on the lesion study."""
    if study is None:
        return {"study": None, "sentences": [], "p_bars": []}
    chance = _chance(study)
    return {
        "study": study,
        "sentences": sentences(study.verdict()),
        "lesion_value": VALUE_NAMES.get(study.value, study.value),
        "lesion_bars": _lesion_bars(study),
        "chance": chance,
        "p_bars": _p_bars(chance) if chance is not None else [],
        **_matrices(study),
        "null_picture": _null(study),
        "matched_picture": _matched(study),
        "dose_pictures": _doses(study),
        "ladder_picture": _ladder(study),
        "rest_picture": _rest(study),
        "curve_pictures": [] if curves is None else _curves(curves),
        "curve_table": None if curves is None else lesion_tables.curve_table(curves),
        "bias_picture": _bias(study),
        "loss_picture": _loss(study),
        "pair_table": lesion_tables.pair_table(study),
        "match_table": lesion_tables.match_table(study),
        "dose_table": lesion_tables.dose_table(study),
        "value_table": lesion_tables.value_table(study),
        "rest_table": lesion_tables.rest_table(study),
        "lesion_table": lesion_tables.lesion_table(study),
        "n_possible": len(study.labels) * (len(study.labels) - 1) // 2,
        "further": further(study),
        "missing": missing(study, curves),
        "command": COMMAND,
    }


def sentences(text: str) -> list[str]:
    """The sentences of a verdict, those that point back to the one before together with it.

    A point within a number ends no sentence.
    """
    texts: list[str] = []
    for sentence in re.split(r"(?<=[.?!]) (?=[A-Z0-9])", text):
        if texts[1:] and sentence.startswith(_POINTING_BACK):
            texts[-1] = f"{texts[-1]} {sentence}"
        else:
            texts.append(sentence)
    return texts


_POINTING_BACK = ("It ", "That ", "These ", "So few ", "Against them", "The sets suffice")


def missing(study: LesionStudy, curves: SizeCurves | None) -> list[Missing]:
    """Parts this study lacks, in the order in which the page would show them."""
    texts = []
    if not study.n_shams:
        why = "without them nothing can be said about chance"
        texts.append(Missing("Sham lesions", why, "--shams 20"))
    if study.n_shams and not study.damage_matched:
        why = "they distinguish selective damage from merely larger damage"
        if not study.is_weakly_matched:
            why += "; here the ordinary shams carry 0.9 of the output or more, so they may do"
        texts.append(Missing("Damage-matched shams", why, "--damage-matched 20"))
    if not study.doses:
        why = "an effect of the neurons should grow with the dose"
        texts.append(Missing("Doses", why, "--doses 1,0.25,0.5,0.75"))
    if len(study.ladder) < 2:
        why = "a finding should not depend on the value that the neurons are set to"
        texts.append(Missing("Other values", why, "--values mean,zero,resample"))
    if not study.sufficiency:
        why = "whether the sets alone are enough to predict their tags"
        texts.append(Missing("Sufficiency", why, "--sufficiency"))
    if curves is None:
        why = "how many neurons a tag needs, beside random and merely active ones"
        texts.append(Missing("Curves over k", why, "--curves"))
    if _lacks_further_shams(study):
        why = "doses, values and sufficiency have nothing to be compared with"
        texts.append(Missing("Shams of further lesions", why, "--other-shams 10"))
    return texts


def further(study: LesionStudy) -> list[str]:
    """Results beside those of the main lesions, one sentence each."""
    texts = []
    if study.damage_matched:
        texts.append(
            f"Damage-matched shams: {study.damage_matched.n_shams} random sets a tag, grown until the loss "
            "over all words rises as much as under the real set."
        )
    if study.doses:
        doses = ", ".join(f"{x:g}" for x in study.doses.dose)
        texts.append(f"Doses {doses}: one-sided trend over sentences, Holm over tags.")
    if study.ladder[1:]:
        values = ", ".join(rung.value.replace("_", " ") for rung in study.ladder)
        texts.append(f"Values: {values}.")
    if study.sufficiency:
        shams = (
            f", beside {study.sufficiency.n_shams} shams of it" if study.sufficiency.n_shams else ""
        )
        texts.append(f"Sufficiency: all neurons cut but one tag's set{shams}.")
    return texts


def _lacks_further_shams(study: LesionStudy) -> bool:
    """Whether something was measured beside the main lesions without shams of its own."""
    counts = [part.n_shams for part in (study.doses, study.sufficiency) if part]
    counts += [rung.n_shams for rung in study.ladder[1:]]
    return 0 in counts


def _lesion_bars(study: LesionStudy) -> list[Bar]:
    numbers = [("its own words", study.diagonal_mean), ("other words", study.off_diagonal_mean)]
    if study.n_shams:
        numbers.append(("own words, shams", float(np.diag(study.sham_mean).mean())))
    return bars(numbers)


def _chance(study: LesionStudy) -> LesionStudy | DamageMatched | None:
    """The comparison that a p is shown of: with damage-matched shams where these were measured."""
    if not study.n_shams or study.p_value is None:
        return None
    return study.deciding


def _p_bars(chance: LesionStudy | DamageMatched) -> list[Bar]:
    return bars(
        [
            ("S* of the real lesions", chance.s_star),
            ("largest of the shams", float(chance.s_star_sham.max())),
            ("mean of the shams", float(chance.s_star_sham.mean())),
        ]
    )


def bars(numbers: Iterable[tuple[str, float]]) -> list[Bar]:
    """Bars on the scale of the largest; what is below zero has no length."""
    listed = list(numbers)
    most = max(1e-12, *(x for _, x in listed))
    return [Bar(name, signed(x), max(x, 0) / most) for name, x in listed]


def signed(value: float) -> str:
    """A number with its sign and three decimals."""
    return number(value, 3, plus=True)


def _matrices(study: LesionStudy) -> dict[str, Any]:
    """The lesion matrix as measured, its still, and minus the shams' mean where there are shams."""
    words = (
        "Matrix of the rise in tag loss of every label's words under every lesion. Mean on the "
        f"diagonal {study.diagonal_mean:.3f} nats, off it {study.off_diagonal_mean:.3f}."
    )
    raw = figures.lesion_matrix(study)
    pictures = [picture("lesion-matrix", raw, words, choice="as measured")]
    if study.n_shams:
        less = figures.lesion_matrix(study, corrected=True)
        words = f"{words} Here the mean of the shams is subtracted."
        pictures.append(picture("lesion-matrix", less, words, choice="minus the shams' mean"))
    return {"lesion_pictures": pictures, "lesion_still": matrix_still(raw, pictures[0].height)}


def _null(study: LesionStudy) -> Picture | None:
    """S* of the shams and of the real lesions; None where it is uninformative."""
    if study.p_value is None:
        return None
    words = (
        f"Histogram of S* of {study.n_shams} shams, from {study.s_star_sham.min():.2f} to "
        f"{study.s_star_sham.max():.2f}; the real lesions have {study.s_star:.2f}."
    )
    return picture("lesion-null", figures.lesion_null(study), words)


def _matched(study: LesionStudy) -> Picture | None:
    if study.damage_matched is None or study.damage_matched.p_value is None:
        return None
    words = (
        "S* of ordinary and of damage-matched shams, and below the damage they do as a share of the "
        f"real set's, label by label. {study.damage_matched.verdict()}"
    )
    return picture("damage-matched", figures.damage_matched(study), words)


def _doses(study: LesionStudy) -> list[Picture]:
    """All labels, then each label with its shams; empty for a study of one dose."""
    if study.doses is None:
        return []
    whole = f"Lines of the tag loss against the dose, one for each tag. {study.doses.verdict()}"
    pictures = [picture("doses", figures.dose_response(study), whole, choice="all tags")]
    last = len(study.doses.dose) - 1
    for i, label in enumerate(study.doses.labels):
        words = (
            f"Tag loss against the dose of the lesion of {label}: at dose "
            f"{study.doses.dose[last]:g} its own words cost {study.doses.own[i, last]:+.3f} nats, "
            f"others {study.doses.other[i, last]:+.3f}."
        )
        figure = figures.dose_response(study, label)
        pictures.append(picture("doses", figure, words, choice=label))
    return pictures


def _ladder(study: LesionStudy) -> Picture | None:
    if len(study.ladder) < 2:
        return None
    means = ", ".join(f"{rung.value} {rung.diagonal_mean:+.3f}" for rung in study.ladder)
    words = (
        f"Dots of each tag's own change of loss under every value; means in nats: {means}. "
        f"{sum(study.sign_agreement)} of {len(study.labels)} tags agree in sign."
    )
    return picture("values", figures.value_ladder(study), words)


def _rest(study: LesionStudy) -> Picture | None:
    if study.sufficiency is None:
        return None
    return picture("sufficiency", figures.sufficiency(study), study.sufficiency.verdict())


def _curves(curves: SizeCurves) -> list[Picture]:
    """Means over labels, then each label."""
    figure = figures.lesion_curves(curves)
    pictures = [picture("curves", figure, curves.verdict(), choice="all tags")]
    areas = curves.areas()
    for label in curves.labels:
        of = areas[(areas["label"] == label) & (areas["ranking"] == KEY)].iloc[0]
        outcome = (
            f"Mean over log k: cutting them causes {of['completeness']:.0%} of what cutting everything "
            f"costs, keeping them alone saves {of['faithfulness']:.0%}."
            if np.isfinite(of["completeness"])
            else "Cutting everything costs it nothing, so there is nothing to take a share of."
        )
        words = f"Loss of {label} against the number of its neurons. {outcome}"
        figure = figures.lesion_curves(curves, label)
        pictures.append(picture("curves", figure, words, choice=label))
    return pictures


def _bias(study: LesionStudy) -> Picture:
    own = float(np.diag(study.auroc_fall).mean())
    n = len(study.labels)
    other = (float(study.auroc_fall.sum()) - n * own) / max(n * (n - 1), 1)
    words = (
        f"Dots for every lesion: the AUROC of its own tag falls by {own:.4f} in the mean, that of "
        f"others by {other:.4f}; beside it the mean shift of P(tag) at words of other tags."
    )
    return picture("bias", figures.bias_and_auroc(study), words)


def _loss(study: LesionStudy) -> Picture:
    tag, whole = study.diagonal_mean, float(np.diag(study.nll_matrix).mean())
    words = (
        "Bars of the rise in the loss of each tag's own words under its lesion, in the part of the "
        f"tag and the part of the word within its tag. Means in nats: {tag:+.3f} and "
        f"{whole - tag:+.3f}, together {whole:+.3f}."
    )
    return picture("loss-split", figures.loss_split(study), words)
