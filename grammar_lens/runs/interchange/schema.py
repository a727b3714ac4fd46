"""The columns of the exported tables: their types, and what they mean."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Field:
    """A column. `kind` is "string", "integer", "number" or "boolean"."""

    name: str
    kind: str
    about: str


@dataclass(frozen=True)
class Table:
    """A table to be written part by part, so that a large one is never whole in memory.

    Columns that a part lacks are empty there.
    """

    name: str
    about: str
    fields: tuple[Field, ...]
    parts: Callable[[], Iterator[pd.DataFrame]]


def text(name: str, about: str) -> Field:
    return Field(name, "string", about)


def whole(name: str, about: str) -> Field:
    return Field(name, "integer", about)


def number(name: str, about: str) -> Field:
    return Field(name, "number", about)


def truth(name: str, about: str) -> Field:
    return Field(name, "boolean", about)


POSITION = text(
    "position",
    "Where words were read: 'word' = at the word's last token, 'next' = at the token before it",
)
LABEL = text("label", "Value of the studied label, such as a part of speech")
NEURON = (
    whole("layer", "Layer of the neuron, from 0"),
    whole("index", "Number of the neuron in its layer, from 0"),
)
SCORE = (
    number("score", "Score of the neuron for the label; 'method' says which"),
    text("method", "Name of the score"),
)
COHENS_D = number("cohens_d", "Mean of the label's words less that of the rest, in pooled sd")
Q = number("q", "False discovery rate at which the neuron would just be chosen; empty if no null")
K = whole("k", "Key neurons taken of each label")

KEY_NEURONS = (
    *(POSITION, LABEL, whole("rank", "Place among the label's key neurons, best = 1")),
    *(*NEURON, *SCORE, text("rule", "The rule of the choice"), Q, COHENS_D),
    number("within_type_d", "Cohen's d among occurrences of the same word form"),
    number("guarded_d", "Cohen's d at equal token frequency and place in the sentence"),
)
SCORES = (
    *(POSITION, LABEL, whole("rank", "Place among all neurons, strongest for the label = 1")),
    *(*NEURON, *SCORE, COHENS_D),
    number("p", "Two-sided p as if words were independent, for orientation; empty if none"),
    Q,
)
PROBE = (
    *(POSITION, K, whole("n_neurons", "Distinct neurons that the probe reads")),
    whole("n_train_words", "Training words"),
    whole("n_fresh_words", "Held-out words, on which all accuracies are measured"),
    number("accuracy", "Share of held-out words classified correctly, 0 to 1"),
    number("accuracy_low", "Lower end of its 95 % bootstrap interval over sentences"),
    number("accuracy_high", "Upper end of the same interval"),
    number("random_accuracy", "Accuracy of as many random neurons, mean of draws"),
    number("majority_accuracy", "Accuracy of always saying the most frequent label"),
    number("word_baseline_accuracy", "Accuracy of a table of the training words' labels"),
    number("control_accuracy", "Accuracy on the control task, random labels of word types"),
    number("layer_accuracy", "Accuracy of all neurons of the best single layer"),
    whole("best_layer", "That layer, from 0"),
    number("unseen_accuracy", "Accuracy on words that no training sentence has"),
    number("macro_f1", "Mean F1 over labels, 0 to 1"),
)
PROBE_LABELS = (
    *(POSITION, LABEL),
    number("precision", "Share of the words called so that are so, 0 to 1"),
    number("recall", "Share of the label's words that are called so, 0 to 1"),
    number("f1", "Harmonic mean of precision and recall"),
    whole("n_words", "Held-out words of the label"),
)
PROBE_CONFUSION = (
    *(POSITION, text("label", "True label"), text("called", "Label the probe gives")),
    whole("n_words", "Held-out words"),
)
PROBE_CURVE = (
    POSITION,
    text("score", "What ranks the neurons: a score, 'random', or 'exchanged labels'"),
    K,
    number("n_neurons", "Distinct neurons, for random ones the mean of draws"),
    number("accuracy", "Share of held-out words classified correctly, 0 to 1"),
    number("control_accuracy", "Accuracy on the control task"),
    number("random_accuracy", "Accuracy of as many random neurons"),
    number("unseen_accuracy", "Accuracy on words that no training sentence has"),
    number("ambiguous_accuracy", "Accuracy on words that training has under several labels"),
    number("macro_f1", "Mean F1 over labels, 0 to 1"),
)
MANNER = (
    text("value", "What cut neurons are set to: zero, mean, resample"),
    number("dose", "Share of the way to that value: 0 = intact, 1 = whole lesion"),
    text("where", "Tokens at which they are cut"),
)
LESION_MATRIX = (
    *(*MANNER, whole("k", "Neurons that are cut")),
    text("lesion", "Label whose key neurons are cut"),
    text("words_of", "Label of the words whose loss is measured"),
    number("tag_loss_change", "Mean rise of the next-word tag loss, nats"),
    number("nll_change", "Mean rise of the next-token loss, nats"),
    number("auroc_fall", "Intact less lesioned one-vs-rest AUROC of P(label | context)"),
    number("bias", "Mean change of P(label | context) over words of other labels"),
    whole("n_words", "Scored held-out words of the label"),
    whole("n_shams", "Sham lesions of matched random neurons"),
    number("sham_mean", "Mean rise of the tag loss under the shams, nats"),
    number("sham_sd", "Its standard deviation over shams, nats; empty for fewer than 2"),
    number("matched_mean", "Mean rise under shams that do as much damage in all, nats"),
    number("matched_sd", "Its standard deviation over these shams, nats"),
)
CROSSED_PAIRS = (
    *MANNER,
    text("against", "'shams' of equal output, or 'damage-matched shams'"),
    text("first", "One label of a pair that dissociates doubly"),
    text("second", "The other label"),
    number("p", "Largest of four one-sided bootstrap p, after Holm over all pairs"),
    number("margin", "How clearly both lesions point at their own label, share of damage"),
    number("threshold", "Margin that sham lesions too seldom reach by chance"),
    truth("confirmed", "Whether the four inequalities hold for the AUROC, too"),
)
DOSE_RESPONSE = (
    *(text("value", "What cut neurons are set to"), text("where", "Tokens at which they are cut")),
    *(LABEL, number("dose", "Share of the way from intact (0) to the whole lesion (1)")),
    number("own", "Rise of the tag loss of the label's own words, nats"),
    number("other", "Mean rise of the other labels', nats"),
    number("sham_own", "Mean own rise under the shams, nats"),
    number("sham_low", "Lowest own rise under a sham, nats"),
    number("sham_high", "Highest own rise under a sham, nats"),
)
DOSE_TREND = (
    LABEL,
    number("slope", "Least-squares slope of 'own' over doses 0 to 1, nats per unit of dose"),
    number("p", "One-sided p of the slope over sentences"),
    truth("monotone", "Whether the own loss rises at every step"),
    number("sham_slope", "Mean slope under the shams"),
    number("sham_p", "(1 + shams with at least this slope) / (1 + shams)"),
)
SUFFICIENCY = (
    LABEL,
    number("kept", "Rise of the own tag loss with all but the label's neurons cut, nats"),
    number("sham_kept", "The same with a sham kept instead, mean, nats"),
    number("everything_cut", "The same with nothing kept, nats"),
    number("share_saved", "Share of the last that keeping the set saves"),
    number("p", "(1 + shams that save at least as much) / (1 + shams)"),
)
LAYER_PROFILE = (
    *(POSITION, LABEL, whole("layer", "Layer, from 0")),
    number("strength", "Root mean square strength of the layer's neurons, in the score's unit"),
    number("null_low", "2.5 % quantile of the same under exchanged labels"),
    number("null_high", "97.5 % quantile of the same"),
    whole("key_neurons", "The label's key neurons in the layer"),
)
OVERLAP = (
    *(POSITION, text("first", "One label"), text("second", "The other label")),
    whole("shared", "Key neurons of both"),
    number("jaccard", "Shared over union"),
    number("coefficient", "Shared over the smaller set"),
    number("expected", "Shared by sets drawn at random within their layers, mean"),
    number("expected_jaccard", "The same as Jaccard overlap"),
    number("expected_coefficient", "The same as overlap coefficient"),
    number("p", "Chance that such sets share as many or more; of single pairs, not corrected"),
)
TIME_COURSE = (
    whole("offset", "Tokens after the one at which words were read, negative for before"),
    *(LABEL, whole("layer", "Layer, from 0")),
    number("strength", "Root mean square correlation of all neurons of the layer"),
    number("key_neurons", "Mean correlation of the key neurons, in the direction chosen for"),
)
EXAMPLES = (
    *(POSITION, *NEURON),
    text("end", "'top' = where the neuron is most active, 'bottom' = where it is least"),
    whole("rank", "Place from that end, from 1"),
    number("value", "Activation of the neuron at the word"),
    text("word", "The word"),
    text("label", "Its label"),
    text("text", "Its sentence"),
)
