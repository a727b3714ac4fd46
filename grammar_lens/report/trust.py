"""Sentences of the report on the choice of neurons and its controls."""

import re
from dataclasses import dataclass

from grammar_lens.errors import counted
from grammar_lens.figures.style import decimals, number, unit_name
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores

FROM_FILE = "from "
"""Prefix of the rule of neurons that were read from a file."""


@dataclass(frozen=True)
class Finding:
    """One question about the choice and its answer; `measured` is False where there is none."""

    name: str
    text: str
    measured: bool = True


def findings(
    scores: Scores, keys: KeyNeurons, controls: SelectionControls | None, alpha: float = 0.05
) -> list[Finding]:
    """The neurons chosen, and the result of each control or why it was not measured."""
    first = Finding("Choice", _choice(scores, keys, alpha))
    if controls is None:
        why = "Not measured: this run has no controls of its choice (controls.json)."
        return [first, Finding("Controls", why, measured=False)]
    judged = [
        _floor(scores, controls),
        _error_rates(scores, controls),
        _agreement(scores, controls),
    ]
    if keys.rule.startswith(FROM_FILE):
        why = "Not measured: the neurons come from a file, so there is no choice of this run to repeat."
        judged = [Finding(f.name, why, measured=False) for f in judged]
    return [first, *judged, _vocabulary(keys, controls), _frequency(controls)]


def share(value: float) -> str:
    """A share in per cent, with a decimal below 10 %."""
    rounded = round(100 * value, 0 if abs(value) >= 0.1 else 1)
    return f"{number(rounded, 0 if abs(value) >= 0.1 or rounded == 0 else 1)}\N{NO-BREAK SPACE}%"


def rule_in_words(rule: str, alpha: float = 0.05) -> str:
    """The rule of `select` in words."""
    if rule.startswith(FROM_FILE):
        return f"those of the file {rule.removeprefix(FROM_FILE)}"
    given = re.search(r"at ([\d.]+)", rule)
    level = float(given[1]) if given else alpha
    if rule.startswith("fdr"):
        return f"every one with a q-value of at most {level:g} within the tag"
    if rule.startswith("permutation"):
        return (
            "every one that stands out from its null further than any neuron of any tag does in "
            f"{share(1 - level)} of the exchanges"
        )
    if rule.startswith("frequency"):
        return "those most often among the largest integrated gradients of the tag's words"
    top = re.match(r"top (\d+)( per layer)?(?:, (positive|negative))?", rule)
    if top is None:
        return rule
    where = " in each layer" if top[2] else ""
    sign = f", among {top[3]} values only" if top[3] else ""
    tested = re.search(r"q at most ([\d.]+)", rule)
    among = (
        f" of those with a q-value of at most {float(tested[1]):g} within the tag" if tested else ""
    )
    return f"the {int(top[1]):,} strongest{where}{among}{sign}"


def _choice(scores: Scores, keys: KeyNeurons, alpha: float) -> str:
    known = SCORES.get(scores.method)
    what = scores.method if known is None else known.summary.replace("`", "")
    unit = "" if known is None else f" ({known.unit})"
    n_neurons, chosen = keys.n_layers * keys.n_units, len(keys.union())
    empty = [label for label in keys if not len(keys[label])]
    sizes = {len(keys[label]) for label in keys}
    spread = f" Tags have {min(sizes):,} to {max(sizes):,} of them." if len(sizes) > 1 else ""
    nothing = f" Nothing is chosen for {', '.join(empty)}." if empty else ""
    units = f"{unit_name(keys.origin.site)}s"
    n_shared = len(keys.unspecific())
    shared = f" Key to more than half of the tags: {n_shared:,}." if n_shared else ""
    return (
        f"Score: {what}{unit}. Key {units} of a tag are {rule_in_words(keys.rule, alpha)}. "
        f"{chosen:,} distinct {units} are key to some tag, {share(chosen / max(n_neurons, 1))} of "
        f"all {n_neurons:,}.{shared}{spread}{nothing}"
    )


def _no_null(scores: Scores) -> str:
    """The reason why there are no exchanged labels to compare with."""
    known = SCORES.get(scores.method)
    possible = known is not None and (known.class_means_suffice or known.is_first_order)
    if possible:
        return "no exchanged labels were collected with this score (--replicates 100)"
    return f"the score {scores.method!r} cannot be had from class sums, so it has no null"


def _floor(scores: Scores, controls: SelectionControls) -> Finding:
    name, table = "Floor", controls.sham
    if table is None:
        return Finding(name, f"Not measured: {_no_null(scores)}.", measured=False)
    if not len(table):
        return Finding(name, "Not measured: every tag has too few words.", measured=False)
    real, sham = table["strength"].mean(), table["sham_strength"].mean()
    highest = table.loc[table["sham_strength"].idxmax()]
    digits = decimals(table["strength"].to_numpy(float))
    left = [x for x in scores.labels if x not in set(table["label"])]
    missing = f" Without a null, having too few words: {', '.join(left)}." if left else ""
    times = f", {real / sham:.1f} times as much" if sham > 0 else ""
    return Finding(
        name,
        "The same chain on exchanged tags, where only chance and a word's place in its sentence are "
        f"left to find, gives the {controls.k:,} strongest a mean strength of "
        f"{number(sham, digits)} (most for {highest['label']}, "
        f"{number(float(highest['sham_strength']), digits)}); with the true tags it is "
        f"{number(real, digits)}{times} (means "
        f"over tags). {controls.n_replicates} exchanges of whole tag sequences between sentences of "
        f"equal length; {controls.left_out_words:,} words of {controls.left_out_sentences:,} "
        f"sentences have no partner and took no part.{missing}",
    )


def _error_rates(scores: Scores, controls: SelectionControls) -> Finding:
    name, table = "Error rates", controls.sham
    if table is None or not len(table):
        why = _no_null(scores) if table is None else "every tag has too few words"
        return Finding(name, f"Not measured: {why}.", measured=False)
    mean = {c: float(table[c].mean()) for c in table.columns if c != "label"}
    return Finding(
        name,
        f"A false discovery rate of 5 % lets {_count(mean['by_fdr'])} neurons of a tag pass "
        f"(mean over tags), with exchanged tags {_count(mean['sham_by_fdr'])}; the permutation "
        f"threshold {_count(mean['by_permutation'])}, with exchanged tags "
        f"{_count(mean['sham_by_permutation'])}.",
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.2g}"


def _agreement(scores: Scores, controls: SelectionControls) -> Finding:
    name, table = "Reliability", controls.reliability
    if table is None or not len(table):
        return Finding(name, f"Not measured: {_no_halves(scores)}.", measured=False)
    above = int((table["p_value"] <= 0.05).sum())
    least = table.loc[table["share"].idxmin()]
    worst = (
        f" Least agreed on: {least['label']}, {share(least['share'])}." if len(table) > 1 else ""
    )
    left = [x for x in scores.labels if x not in set(table["label"])]
    missing = f" Not in both halves often enough: {', '.join(left)}." if left else ""
    return Finding(
        name,
        f"Halves of the sentences agree on {share(table['share'].mean())} of the neurons; chance "
        f"is {share(table['expected_share'].mean())} (means over tags, top {controls.k:,} of each). "
        f"{above} of {len(table)} tags agree more than chance does (p ≤ .05 each, not corrected for "
        f"their number).{worst}{missing}",
    )


def _no_halves(scores: Scores) -> str:
    known = SCORES.get(scores.method)
    if known is not None and known.needs == "sample":
        return f"the score {scores.method!r} rests on a sample of words, which was not halved"
    if known is not None and known.needs == "output_contrast":
        return f"the score {scores.method!r} rests on weights, of which there are no halves"
    return "nothing was collected of halves of the sentences, or tags are too rare in one"


def _vocabulary(keys: KeyNeurons, controls: SelectionControls) -> Finding:
    name, table = "Grammar or vocabulary", controls.within_type
    if table is None:
        why = "Not measured: contrasts within word forms were not collected."
        return Finding(name, why, measured=False)
    # where the error is as large as the effect, what is left could be all or nothing
    tells = 2 * table["standard_error"] <= table["effect"]
    known = table.loc[table["within_type_retained"].notna() & tells]
    if known.empty:
        why = "Not measured: no tag has enough words of forms that occur under several tags."
        return Finding(name, why, measured=False)
    left = float(known["within_type_retained"].median())
    at_word = keys.origin.position == "word"
    where = "within word forms" if at_word else "after the same word"
    kind = "forms that occur under several tags" if at_word else "words that several tags follow"
    if left < 0:
        verdict = "there the neurons indicate the opposite"
    elif left < 0.2:
        verdict = "most of it is vocabulary"
    elif left < 0.8:
        verdict = "part of it is vocabulary"
    else:
        verdict = "little of it is vocabulary"
    rest = [x for x in table["label"] if x not in set(known["label"])]
    others = f" Too few such words to tell: {', '.join(map(str, rest))}." if rest else ""
    return Finding(
        name,
        f"What is left {where} is {share(left)} of the effect (median over {counted(len(known), 'tag')}): "
        f"{verdict}. The comparison rests on {kind}, "
        f"{_count(float(known['ambiguous_forms'].median()))} a tag (median).{others}",
    )


def _frequency(controls: SelectionControls) -> Finding:
    name, table = "Frequency and place", controls.within_type
    if table is None or table["guarded_retained"].isna().all():
        why = "Not measured: contrasts at equal frequency were not collected."
        return Finding(name, why, measured=False)
    known = table.loc[table["guarded_retained"].notna()]
    left = float(known["guarded_retained"].median())
    much = "little" if left >= 0.8 else "part" if left >= 0.2 else "most"
    return Finding(
        name,
        f"At equal frequency of the token and place in the sentence {share(left)} of the effect is "
        f"left (median over {counted(len(known), 'tag')}): they explain {much} of it.",
    )
