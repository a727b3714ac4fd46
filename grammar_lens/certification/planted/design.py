"""Design of a planted world: its neurons, the tags they respond to and the tags they promote."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from grammar_lens.certification.planted.chain import SHARED, TAGS, TagChain

KINDS = ("true", "null", "decoy", "weak", "elsewhere")
STRENGTHS = (0.5, 0.25, 0.125)
"""The share of the evidence that the neurons of weak worlds carry, in turn."""
PATHS = ("embedding", "attention", "none")
N_LAYERS = 2


@dataclass(frozen=True)
class Planted:
    """A neuron whose activation is a known function of the current tag.

    It writes `to_tags` into the output directions of the tags, per nat of `reads`, or `to_code`
    times its mean size into a random direction of the word code. `tags` are those whose set it is in.
    """

    layer: int
    tags: tuple[int, ...]
    reads: Float[np.ndarray, " tag"]
    to_tags: Float[np.ndarray, " tag"]
    to_code: float = 0.0


@dataclass(frozen=True)
class Design:
    """A world's neurons, and how its model knows the next tag beside them.

    `evidence` is what the path adds to the output direction of the next tag (column) after the
    current one (row), nats. `drawn` are the layers and tags of neurons that are to be drawn among
    the background, one of them for two tags.
    """

    kind: str
    strength: float
    path: str
    evidence: Float[np.ndarray, "tag tag"]
    planted: tuple[Planted, ...] = ()
    decoys: tuple[Planted, ...] = ()
    drawn: tuple[tuple[int, tuple[int, ...]], ...] = ()


def design(kind: str, number: int, chain: TagChain, rng: np.random.Generator) -> Design:
    """The design of world `number` of its kind; the number decides the path and the strength."""
    nothing = np.zeros_like(chain.evidence)
    if kind == "true":
        planted = tuple(_carriers(chain, 1.0, rng))
        return Design(kind, 1.0, "none", nothing, planted, tuple(_decoys(chain, planted, rng)))
    if kind == "weak":
        strength = STRENGTHS[number % len(STRENGTHS)]
        planted = tuple(_carriers(chain, strength, rng))
        rest = (1 - strength) * chain.evidence
        decoys = tuple(_decoys(chain, planted, rng))
        return Design(kind, strength, "embedding", rest, planted, decoys)
    if kind == "null":
        path = PATHS[number % len(PATHS)]
        drawn = tuple((n.layer, n.tags) for n in _carriers(chain, 1.0, rng))
        return Design(kind, 0.0, path, nothing if path == "none" else chain.evidence, drawn=drawn)
    if kind == "decoy":
        decoys = tuple(_decoys(chain, list(_carriers(chain, 1.0, rng)), rng))
        return Design(kind, 0.0, PATHS[number % 2], chain.evidence, decoys=decoys)
    assert kind == "elsewhere"
    planted = tuple(_strays(chain, to_code=number % 2 == 0, rng=rng))
    written = sum((np.outer(n.reads, n.to_tags) for n in planted), nothing)
    return Design(kind, 0.0, "embedding", chain.evidence - written, planted)


def _carriers(chain: TagChain, strength: float, rng: np.random.Generator) -> Iterator[Planted]:
    """Neurons that carry `strength` of the evidence for every tag, in unequal parts.

    The two alike tags share one; another tag's strongest is there twice, each with half its weight.
    """
    single = [c for c in range(len(TAGS)) if c not in chain.alike]
    doubled = int(rng.choice(single))
    for c in range(len(TAGS)):
        parts = sorted(_parts(rng))
        if c == doubled:
            parts = [*parts[:-1], parts[-1] / 2, parts[-1] / 2]
        for part in parts:
            yield Planted(_layer(rng), (c,), chain.own(c), strength * part * _to(c))
    first, second = sorted(chain.alike)
    to_both = strength * SHARED * (_to(first) + _to(second))
    yield Planted(_layer(rng), (first, second), chain.common, to_both)


def _decoys(
    chain: TagChain, planted: Sequence[Planted], rng: np.random.Generator
) -> Iterator[Planted]:
    """As many neurons as every tag has, that fire as P(tag | current tag) does and write nothing.

    No function of the current word correlates more with the next word being of that tag.
    """
    for c in range(len(TAGS)):
        for _ in range(sum(c in neuron.tags for neuron in planted)):
            yield Planted(_layer(rng), (c,), _like_evidence(chain, c), np.zeros(len(TAGS)))


def _strays(chain: TagChain, *, to_code: bool, rng: np.random.Generator) -> Iterator[Planted]:
    """Neurons that fire as decoys do and write: into a code, or into another tag's direction."""
    other = rng.permutation(len(TAGS))
    other = {int(a): int(b) for a, b in zip(other, np.roll(other, 1), strict=True)}
    for c in range(len(TAGS)):
        for part in _parts(rng):
            to = np.zeros(len(TAGS)) if to_code else part * _to(other[c])
            reads = _like_evidence(chain, c)
            yield Planted(_layer(rng), (c,), reads, to, part if to_code else 0.0)


def _like_evidence(chain: TagChain, c: int) -> Float[np.ndarray, " tag"]:
    """P(c | current tag), centred, and as large as the evidence for c."""
    values = chain.transition[:, c] - chain.stationary[c]
    size = np.sqrt(chain.stationary @ chain.evidence[:, c] ** 2)
    return values * (size / np.sqrt(chain.stationary @ values**2))


def _parts(rng: np.random.Generator) -> list[float]:
    """Two to four unequal parts of 1, the largest at most 2.5 times the smallest."""
    parts = rng.uniform(1.0, 2.5, int(rng.integers(2, 5)))
    return (parts / parts.sum()).tolist()


def _to(c: int) -> Float[np.ndarray, " tag"]:
    return np.eye(len(TAGS))[c]


def _layer(rng: np.random.Generator) -> int:
    return int(rng.integers(N_LAYERS))
