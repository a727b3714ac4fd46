"""Weights of a planted world: a small Llama that implements its design.

residual = [output tag | constant | one-hot current tag | word code]. The constant is so large that
it fixes the scale of every RMSNorm, whose weights undo it: each layer reads the residual as it is.
The gate of a planted neuron reads the constant, its up-projection the current tag; a word's row of
the LM head is its tag's direction, its log frequency (on the constant) and a code of its own.
Background neurons read everything and write only code, which moves the words of all tags at random.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from transformers import LlamaConfig, LlamaForCausalLM

from grammar_lens.certification.planted.chain import N_FORMS, TAGS, TagChain
from grammar_lens.certification.planted.design import N_LAYERS, Design, Planted

N_TAGS = len(TAGS)
D_MODEL, D_MLP, N_HEADS = 48, 128, 3
D_HEAD = D_MODEL // N_HEADS
OUT, CONST, TAG = slice(0, N_TAGS), N_TAGS, slice(N_TAGS + 1, 2 * N_TAGS + 1)
CODE = slice(2 * N_TAGS + 1, D_MODEL)
D_CODE = D_MODEL - 2 * N_TAGS - 1
N_SPECIAL = 2
"""BOS and padding: the first rows of the vocabulary."""
VOCABULARY = N_SPECIAL + N_TAGS * N_FORMS
CONSTANT = 40.0
GATE = 4.0
"""Input to the gate of a planted neuron: far enough above 0 that SiLU is linear."""
ATTENTION = 15.0
"""Attention score between two words of the same tag where attention carries the evidence."""
TAG_HEAD = (*range(4, 4 + N_TAGS // 2), *range(4 + D_HEAD // 2, 4 + D_HEAD // 2 + N_TAGS // 2))
"""Dimensions of a head that rotate by less than 1e-5 per position at the base below."""
ROTARY_BASE = 1e12
CODE_LOGIT = 0.4
"""Length of a word's code in the LM head, beside 1 for its tag's direction.

Codes of a tag's words do not cancel, so a background neuron has some effect on every tag; with
longer codes (1.0) the strongest of them outdo the weakest planted neurons, and truly so.
"""

Address = tuple[int, int]


@dataclass(frozen=True)
class Built:
    """A model and the addresses of its planted neurons and decoys, in the design's order."""

    model: LlamaForCausalLM
    planted: tuple[Address, ...]
    decoys: tuple[Address, ...]
    background: tuple[Address, ...]


def build(design: Design, chain: TagChain, rng: np.random.Generator) -> Built:
    """The model of a design."""
    model = LlamaForCausalLM(_config()).eval()
    embedding = _embedding(design, rng)
    weights = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": _head(chain, rng),
        "model.norm.weight": np.full(D_MODEL, CONSTANT / np.sqrt(D_MODEL)),
    }
    places = [rng.permutation(D_MLP).tolist() for _ in range(N_LAYERS)]
    spots = [(n.layer, int(places[n.layer].pop())) for n in (*design.planted, *design.decoys)]
    background = [(layer, int(i)) for layer in range(N_LAYERS) for i in sorted(places[layer])]
    frequency = (chain.stationary[:, None] * chain.share).ravel()
    carrying = int(rng.integers(N_LAYERS)) if design.path == "attention" else None
    residual = embedding[N_SPECIAL:]
    for layer in range(N_LAYERS):
        units = _Units(residual, frequency, rng)
        for neuron, (where, index) in zip(design.planted + design.decoys, spots, strict=True):
            if where == layer:
                units.plant(neuron, index)
        idle = [i for where, i in background if where == layer]
        n_decoys = sum(n.layer == layer for n in design.decoys)
        # a sham of a neuron without output is one without output, so there must be others
        units.fill(idle, n_silent=2 * n_decoys if design.kind == "decoy" else 0)
        residual = residual + units.output()
        name = f"model.layers.{layer}"
        weights |= {f"{name}.mlp.{part}.weight": w for part, w in units.weights().items()}
        attention = _attention(design.evidence if layer == carrying else None, rng)
        weights |= {f"{name}.self_attn.{part}.weight": w for part, w in attention.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}.{norm}.weight"] = np.full(D_MODEL, CONSTANT / np.sqrt(D_MODEL))
    _write(model, weights)
    n = len(design.planted)
    return Built(model, tuple(spots[:n]), tuple(spots[n:]), tuple(background))


class _Units:
    """The MLP of one layer, filled neuron by neuron.

    `words` are the residuals it will read, one for every form, but for what attention adds.
    """

    def __init__(
        self,
        words: Float[np.ndarray, "word d_model"],
        frequency: Float[np.ndarray, " word"],
        rng: np.random.Generator,
    ) -> None:
        self.words, self.frequency, self.rng = words, frequency, rng
        self.gate = np.zeros((D_MLP, D_MODEL))
        self.up = np.zeros((D_MLP, D_MODEL))
        self.down = np.zeros((D_MODEL, D_MLP))

    def plant(self, neuron: Planted, index: int) -> None:
        """A neuron whose activation is what it `reads` times a scale that its output undoes."""
        scale = float(np.exp(self.rng.normal(0.0, 0.3)))
        self.gate[index, CONST] = GATE / CONSTANT
        self.up[index, TAG] = scale * neuron.reads
        size = scale * GATE / (1 + np.exp(-GATE))
        self.down[OUT, index] = neuron.to_tags / size
        self.down[CODE, index] = neuron.to_code * self._direction() / size

    def fill(self, indices: list[int], n_silent: int) -> None:
        """Background neurons at these places, the first `n_silent` of them without output."""
        for place, index in enumerate(indices):
            for weight in (self.gate, self.up):
                weight[index, CONST] = self.rng.normal(0.5, 1.0) / CONSTANT
                weight[index, TAG] = self.rng.normal(0.0, 1.0, N_TAGS)
                weight[index, CODE] = self.rng.normal(0.0, 1.0, D_CODE) / np.sqrt(D_CODE)
            if place >= n_silent:
                # as large as what planted neurons put out: a part of the evidence
                size = np.exp(self.rng.uniform(np.log(0.1), np.log(0.6)))
                self.down[CODE, index] = size / self._mean_size(index) * self._direction()

    def weights(self) -> dict[str, np.ndarray]:
        return {"gate_proj": self.gate, "up_proj": self.up, "down_proj": self.down}

    def output(self) -> Float[np.ndarray, "word d_model"]:
        """The layer's contribution to the residual of every form."""
        return self._activation(slice(None)) @ self.down.T

    def _mean_size(self, index: int) -> float:
        """The mean absolute activation over words."""
        return float(self.frequency @ np.abs(self._activation(slice(index, index + 1))[:, 0]))

    def _activation(self, units: slice) -> Float[np.ndarray, "word unit"]:
        gate, up = self.words @ self.gate[units].T, self.words @ self.up[units].T
        return gate / (1 + np.exp(-gate)) * up

    def _direction(self) -> Float[np.ndarray, " code"]:
        direction = self.rng.normal(size=D_CODE)
        return direction / np.linalg.norm(direction)


def _embedding(design: Design, rng: np.random.Generator) -> Float[np.ndarray, "token d_model"]:
    """The constant, every word's tag and code, and the evidence where no other path carries it."""
    rows = np.zeros((VOCABULARY, D_MODEL))
    rows[:, CONST] = CONSTANT
    tag = np.repeat(np.arange(N_TAGS), N_FORMS)
    rows[N_SPECIAL:, TAG] = np.eye(N_TAGS)[tag]
    rows[N_SPECIAL:, CODE] = rng.normal(size=(len(tag), D_CODE)) / np.sqrt(D_CODE)
    if design.path == "embedding":
        rows[N_SPECIAL:, OUT] = design.evidence[tag]
    return rows


def _head(chain: TagChain, rng: np.random.Generator) -> Float[np.ndarray, "token d_model"]:
    """Every word's tag direction, log frequency and code; special tokens are never predicted."""
    rows = np.zeros((VOCABULARY, D_MODEL))
    rows[:N_SPECIAL, CONST] = -20.0 / CONSTANT
    words = rows[N_SPECIAL:]
    words[:, OUT] = np.repeat(np.eye(N_TAGS), N_FORMS, axis=0)
    frequency = (chain.stationary[:, None] * chain.share).ravel()
    words[:, CONST] = np.log(frequency) / CONSTANT
    code = rng.normal(size=(len(words), D_CODE))
    words[:, CODE] = CODE_LOGIT * code / np.linalg.norm(code, axis=1, keepdims=True)
    return rows


def _attention(
    evidence: Float[np.ndarray, "tag tag"] | None, rng: np.random.Generator
) -> dict[str, Float[np.ndarray, "d_model d_model"]]:
    """Heads that move code about; with evidence, the first attends to words of the current tag.

    What it reads there is the tag, and it writes the evidence for the next one.
    """
    q, k, v, o = (np.zeros((D_MODEL, D_MODEL)) for _ in range(4))
    rest = slice(D_HEAD, D_MODEL)
    for weight in (q, k, v):
        weight[rest, CODE] = rng.normal(size=(D_MODEL - D_HEAD, D_CODE)) / np.sqrt(D_CODE)
    o[CODE, rest] = rng.normal(size=(D_CODE, D_MODEL - D_HEAD)) / np.sqrt(D_CODE)
    if evidence is not None:
        strength = np.sqrt(ATTENTION * np.sqrt(D_HEAD))
        for weight in (q, k):
            weight[list(TAG_HEAD), TAG] = strength * np.eye(N_TAGS)
        v[:N_TAGS, TAG] = np.eye(N_TAGS)
        o[OUT, :N_TAGS] = evidence.T
    return {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": o}


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=1,
        tie_word_embeddings=False,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
        name_or_path="planted",  # pyright: ignore[reportCallIssue]
    )


def _write(model: LlamaForCausalLM, weights: dict[str, np.ndarray]) -> None:
    """Puts every weight in its place; none may be left at its random start."""
    parameters = dict(model.named_parameters())
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(torch.from_numpy(weight))
