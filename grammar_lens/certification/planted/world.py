"""A planted world: a loaded model, training text, held-out text, and the true tag neurons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from grammar_lens.certification.planted.chain import N_FORMS, TAGS, TagChain, draw_chain, form_of
from grammar_lens.certification.planted.design import KINDS, Design, Planted, design
from grammar_lens.certification.planted.weights import Address, Built, build
from grammar_lens.corpus.bank import Treebank
from grammar_lens.defaults import SEED
from grammar_lens.errors import require_one_of
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model

TRAIN_WORDS, FRESH_WORDS = 4000, 2000


@dataclass(frozen=True)
class World:
    """A model whose tag neurons are known, with text of its chain.

    `sets` are the addresses of each tag's neurons: those that carry the evidence for it (kinds
    "true", "weak"), that fire with it and write elsewhere ("elsewhere") or nothing ("decoy"), or
    that were drawn at random ("null"). `decoys` fire with a tag and write nothing.
    """

    kind: str
    number: int
    strength: float
    path: str
    model: Model
    chain: TagChain
    train: Treebank
    fresh: Treebank
    sets: dict[str, tuple[Address, ...]]
    decoys: dict[str, tuple[Address, ...]]


def plant(
    kind: str,
    number: int = 0,
    *,
    seed: int = SEED,
    train_words: int = TRAIN_WORDS,
    fresh_words: int = FRESH_WORDS,
) -> World:
    """World `number` of a kind: "true", "null", "decoy", "weak" or "elsewhere".

    The same for the same kind, number and seed, whatever else is made. Of weak worlds the number
    decides the strength, of the others how the model knows the next tag.
    Raises GrammarLensError for an unknown kind.
    """
    require_one_of("kind", kind, KINDS)
    own = np.random.SeedSequence(seed, spawn_key=(KINDS.index(kind), number))
    words, structure, weights = (np.random.default_rng(s) for s in own.spawn(3))
    chain = draw_chain(structure)
    plan = design(kind, number, chain, structure)
    built = build(plan, chain, weights)
    train = chain.treebank(f"{kind}-{number}-train", train_words, words)
    fresh = chain.treebank(f"{kind}-{number}-fresh", fresh_words, words)
    decoys = _sets(plan.decoys, built.decoys)
    return World(
        kind=kind,
        number=number,
        strength=plan.strength,
        path=plan.path,
        model=load_model(built.model, tokenizer=word_tokenizer(), device="cpu"),
        chain=chain,
        train=train,
        fresh=fresh,
        sets=decoys if kind == "decoy" else _planted_sets(plan, built, structure),
        decoys=decoys,
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word form, BOS and padding; words stand between blanks."""
    forms = [form_of(tag, i) for tag in range(len(TAGS)) for i in range(N_FORMS)]
    vocabulary = {form: i for i, form in enumerate(["<s>", "<pad>", *forms])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    raw.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", pad_token="<pad>")


def _planted_sets(
    plan: Design, built: Built, rng: np.random.Generator
) -> dict[str, tuple[Address, ...]]:
    """The sets of the planted neurons, or those that are drawn among the background."""
    if not plan.drawn:
        return _sets(plan.planted, built.planted)
    free = [built.background[i] for i in rng.permutation(len(built.background))]
    sets: dict[str, list[Address]] = {tag: [] for tag in TAGS}
    for layer, tags in plan.drawn:
        address = next(a for a in free if a[0] == layer)
        free.remove(address)
        for c in tags:
            sets[TAGS[c]].append(address)
    return {tag: tuple(sorted(addresses)) for tag, addresses in sets.items()}


def _sets(
    neurons: Sequence[Planted], addresses: Sequence[Address]
) -> dict[str, tuple[Address, ...]]:
    """The addresses of every tag's neurons, sorted."""
    return {
        tag: tuple(sorted(a for n, a in zip(neurons, addresses, strict=True) if c in n.tags))
        for c, tag in enumerate(TAGS)
    }
