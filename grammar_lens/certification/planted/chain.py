"""Text whose tags follow a known Markov chain, with word forms that belong to tags."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from grammar_lens.corpus.bank import Sentence, Treebank, Word

TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET")
N_FORMS = 12
"""Word forms of each tag."""
SENTENCE_WORDS = (8, 13)
"""A sentence has at least the first and fewer than the second number of words."""
LEAST_COST = 0.15
"""Nats; chains are drawn until losing a tag's evidence costs that tag at least so much.

Above the 0.1 that full strength means, for what a real lesion and finite text take away.
"""
LEAST_SLOPE = 0.2
"""Nats to first order; what each tag's own evidence, and what two share, is worth to it at least."""
SHARED = 0.4
"""Share of the common evidence for the two alike tags that one neuron carries."""
RARE = 0.03
"""The share of a tag's successors that are drawn evenly: no evidence is stronger than log RARE / 6."""


@dataclass(frozen=True)
class TagChain:
    """P(next tag | tag), and P(form | tag); every form belongs to one tag.

    `alike` are two tags that tend to follow the same tags, so that one neuron can serve both.
    """

    transition: Float[np.ndarray, "tag tag"]
    share: Float[np.ndarray, "tag form"]
    alike: tuple[int, int]

    @cached_property
    def stationary(self) -> Float[np.ndarray, " tag"]:
        """Long-run share of every tag."""
        n = len(self.transition)
        equations = np.concatenate([self.transition.T - np.eye(n), np.ones((1, n))])
        return np.linalg.lstsq(equations, np.append(np.zeros(n), 1.0), rcond=None)[0]

    @cached_property
    def evidence(self) -> Float[np.ndarray, "tag tag"]:
        """log P(c | t) - log P(c) for the current tag t (row) and the next tag c (column), nats."""
        return np.log(self.transition) - np.log(self.stationary)

    @cached_property
    def common(self) -> Float[np.ndarray, " tag"]:
        """Mean of the shared part of the evidence for the two alike tags, by current tag."""
        return self.evidence[:, list(self.alike)].mean(1)

    def own(self, c: int) -> Float[np.ndarray, " tag"]:
        """The evidence for tag c, less what a shared neuron carries of it."""
        return self.evidence[:, c] - (SHARED * self.common if c in self.alike else 0.0)

    @property
    def entropy(self) -> float:
        """Entropy of the next tag given the current one, nats: the least tag loss there can be."""
        return float(-(self.stationary @ (self.transition * np.log(self.transition)).sum(1)))

    def lesion_cost(self) -> Float[np.ndarray, " tag"]:
        """Rise of a tag's own loss when the evidence for it is held at its mean, nats.

        In a model that gives P(c | t) exactly, softmax(log P(c) + evidence).
        """
        cost = np.empty(len(self.transition))
        for c in range(len(cost)):
            logits = np.log(self.transition)
            logits[:, c] = self.stationary @ logits[:, c]
            after = logits[:, c] - np.log(np.exp(logits).sum(1))
            cost[c] = self._given_next(c) @ (np.log(self.transition[:, c]) - after)
        return cost

    def slope(
        self, values: Float[np.ndarray, " tag"], c: int, to: tuple[int, ...] | None = None
    ) -> float:
        """Gain in nats for tag c when `values` of the current tag are added to its logit.

        To first order, against their mean. `to` are the tags to whose logits they are added.
        """
        gap = values - self.stationary @ values
        gradient = (c in (to or (c,))) - self.transition[:, list(to or (c,))].sum(1)
        return float(self._given_next(c) @ (gap * gradient))

    def _given_next(self, c: int) -> Float[np.ndarray, " tag"]:
        """P(current tag | next tag c)."""
        return self.stationary * self.transition[:, c] / self.stationary[c]

    def treebank(self, name: str, n_words: int, rng: np.random.Generator) -> Treebank:
        """Sentences of at least `n_words` words in all, drawn from the chain."""
        sentences, n = [], 0
        while n < n_words:
            length = int(rng.integers(*SENTENCE_WORDS))
            sentences.append(self._sentence(f"{name}-{len(sentences)}", length, rng))
            n += length
        return Treebank(name, tuple(sentences))

    def _sentence(self, name: str, length: int, rng: np.random.Generator) -> Sentence:
        words, text = [], ""
        row = self.stationary
        for at_tag, at_form in rng.random((length, 2)).tolist():
            tag = _drawn(row, at_tag)
            form = form_of(tag, _drawn(self.share[tag], at_form))
            start = len(text) + (text != "")
            text = f"{text} {form}" if text else form
            words.append(Word(form, (start, start + len(form)), {"upos": TAGS[tag]}))
            row = self.transition[tag]
        return Sentence(name, text, tuple(words), None, name)


def _drawn(shares: Float[np.ndarray, " value"], at: float) -> int:
    """The value into whose share of [0, 1) the number `at` falls."""
    return min(int(shares.cumsum().searchsorted(at, side="right")), len(shares) - 1)


def form_of(tag: int, number: int) -> str:
    """The word form of that number of a tag, such as "verb3"."""
    return f"{TAGS[tag].lower()}{number}"


def draw_chain(rng: np.random.Generator) -> TagChain:
    """A chain in which every tag's evidence is worth at least `LEAST_COST` nats to it.

    Log-odds are normal, two tags' in part the same. Redrawn until that holds, and until every
    tag's own evidence, and what those two have in common, is worth `LEAST_SLOPE` to first order.
    """
    n = len(TAGS)
    while True:
        first, second = (int(i) for i in rng.choice(n, 2, replace=False))
        log_odds = rng.normal(0.0, 1.2, (n, n))
        both = rng.normal(0.0, 1.2, n)
        log_odds[:, [first, second]] = 0.5 * log_odds[:, [first, second]] + both[:, None]
        weights = np.exp(log_odds)
        weights /= weights.sum(1, keepdims=True)
        chain = TagChain(
            (1 - RARE) * weights + RARE / n,
            rng.dirichlet(np.full(N_FORMS, 4.0), n),
            (first, second),
        )
        common = [chain.slope(chain.common, c, chain.alike) for c in chain.alike]
        own = [chain.slope(chain.own(c), c) for c in range(n)]
        if chain.lesion_cost().min() >= LEAST_COST and min(common + own) >= LEAST_SLOPE:
            return chain
