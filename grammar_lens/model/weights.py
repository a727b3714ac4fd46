"""Statistics of neurons from the weights alone: output norms and direct effects on logits."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, model_name
from grammar_lens.model.support import require_plain


def output_norms(model: Model) -> Float[np.ndarray, "layer neuron"]:
    """Euclidean norm of every neuron's outgoing weight, ||w_out||."""
    norms = []
    for layer in range(model.cfg.n_layers):
        w_out = model.blocks[layer].mlp.W_out
        norms.append(w_out.detach().float().norm(dim=1).double().cpu().numpy())
    return np.stack(norms)


@torch.no_grad()
def output_contrast(
    model: Model, counts: Float[np.ndarray, "vocab label"]
) -> Float[np.ndarray, "label layer neuron"]:
    """Rise of the mean logit of a label's words over that of all other words, per neuron.

    Logits per unit of activation on the direct path, with the final norm's scale (and that of a norm
    after the MLP) held at 1. `counts[v, c]` weighs the tokens: how many words of label c begin with v
    (`Lexicon.count`). A constant added to all logits changes nothing. Vocabulary beyond the counts
    counts as unseen. Raises GrammarLensError for counts of another vocabulary, or if a label or its rest has none.
    """
    readout = _before_norm(model, _mean_unembedding(model, counts))
    contrast = []
    for layer in range(model.cfg.n_layers):
        w_out = output_weight(model, layer).float()
        before_norm = _before_mlp_norm(model, layer, readout.to(w_out.device))
        contrast.append((before_norm.float() @ w_out.T).double().cpu().numpy())
    return np.stack(contrast, axis=1)


@torch.no_grad()
def neuron_contrast(
    model: Model,
    counts: Float[np.ndarray, "vocab label"],
    addresses: Int[np.ndarray, "neuron two"],
) -> Float[np.ndarray, "label neuron"]:
    """`output_contrast` of some neurons alone, each given by its layer and index."""
    readout = _before_norm(model, _mean_unembedding(model, counts))
    return (readout @ _written(model, addresses).to(readout.device).T).cpu().numpy()


@torch.no_grad()
def token_effects(
    model: Model, addresses: Int[np.ndarray, "neuron two"], k: int = 10
) -> tuple[Int[np.ndarray, "neuron two_k"], Float[np.ndarray, "neuron two_k"]]:
    """The `k` tokens whose logits each neuron raises most, then the `k` it lowers most.

    Ids and logits per unit of activation on the direct path, as in `output_contrast`, less their
    mean over the vocabulary, so that a constant added to all logits does not count. The strongest
    come first, ties by id. Entries without a token in the tokenizer are left out.
    """
    head = unembedding(model)[: len(model.tokenizer)]
    k = min(k, len(head))
    written = _after_norm(model, _written(model, addresses)).float().to(head.device)
    ids, logits = [], []
    for some in written.split(_NEURONS_AT_ONCE):
        effect = _on_all_tokens(head, some)
        order = [torch.argsort(sign * effect, dim=1, stable=True)[:, :k] for sign in (-1, 1)]
        ids.append(torch.cat(order, 1))
        logits.append(effect.gather(1, ids[-1]))
    return torch.cat(ids).cpu().numpy(), torch.cat(logits).double().cpu().numpy()


_NEURONS_AT_ONCE = 64
_ROWS_AT_ONCE = 4096


def _on_all_tokens(
    head: Float[Tensor, "vocab d_model"], written: Float[Tensor, "neuron d_model"]
) -> Float[Tensor, "neuron vocab"]:
    """Contribution of vectors to every logit, less the mean over the vocabulary; head in parts."""
    parts = [written @ rows.float().T for rows in head.split(_ROWS_AT_ONCE)]
    effect = torch.cat(parts, dim=1)
    return effect - effect.mean(1, keepdim=True, dtype=torch.float64).float()


def _written(
    model: Model, addresses: Int[np.ndarray, "neuron two"]
) -> Float[Tensor, "neuron d_model"]:
    """Contribution of neurons to the residual stream per unit of activation (host, float64)."""
    written = torch.zeros(len(addresses), model.cfg.d_model, dtype=torch.float64)
    for layer in np.unique(addresses[:, 0]).tolist():
        in_layer = np.flatnonzero(addresses[:, 0] == layer)
        w_out = output_weight(model, layer)
        rows = w_out[torch.from_numpy(addresses[in_layer, 1]).to(w_out.device)].double()
        written[torch.from_numpy(in_layer)] = _before_mlp_norm(model, layer, rows).cpu()
    return written


def _before_norm(model: Model, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Directions after the final norm as directions before it, its scale held at 1."""
    rows = rows * norm_gain(model.ln_final, rows)
    if str(model.cfg.normalization_type).startswith("LN"):
        rows = rows - rows.mean(1, keepdim=True)  # a LayerNorm subtracts the mean over dimensions
    return rows


def _after_norm(model: Model, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Vectors after the final norm, with its scale held at 1."""
    if str(model.cfg.normalization_type).startswith("LN"):
        rows = rows - rows.mean(1, keepdim=True)
    return rows * norm_gain(model.ln_final, rows)


def _before_mlp_norm(
    model: Model, layer: int, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """Directions after a norm that follows the MLP (Gemma has one) as directions before it."""
    after = getattr(model.blocks[layer], "ln2_post", None)
    return rows if after is None else rows * norm_gain(after, rows)


def _mean_unembedding(
    model: Model, counts: Float[np.ndarray, "vocab label"]
) -> Float[Tensor, "label d_model"]:
    """Mean unembedding of each label's words minus that of the rest's, in float64."""
    head = unembedding(model)
    if len(counts) > len(head):
        raise GrammarLensError(
            f"the counts are of {len(counts)} tokens and {model_name(model)} predicts {len(head)}: "
            "they were made with another model's tokenizer"
        )
    of_label, total = counts.sum(0), counts.sum()
    empty = np.flatnonzero((of_label == 0) | (of_label == total))
    if len(empty):
        raise GrammarLensError(
            f"label number {empty[0]} has {of_label[empty[0]]:.0f} of {total:.0f} words: a contrast "
            "needs words of every label and of its rest, so count them on a larger treebank"
        )
    tokens = np.flatnonzero(counts.sum(1))
    seen = counts[tokens]
    weight = seen / of_label - (seen.sum(1, keepdims=True) - seen) / (total - of_label)
    contrast = torch.zeros(counts.shape[1], head.shape[1], dtype=torch.float64, device=head.device)
    for start in range(0, len(tokens), 4096):
        some = slice(start, start + 4096)
        rows = head[torch.from_numpy(tokens[some]).to(head.device)].double()
        contrast += torch.from_numpy(weight[some].T).to(head.device) @ rows
    return contrast


def norm_gain(norm: nn.Module, like: Float[Tensor, "label d_model"]) -> Float[Tensor, " d_model"]:
    """Factor of a norm for every dimension of a vector of scale 1, in float64.

    Measured on its output, so it does not matter how its weight is stored (Gemma adds 1 to it) or
    whether it was folded into later weights.
    """
    sign = torch.ones(like.shape[1], dtype=torch.float64, device=like.device)
    sign[1::2] = -1
    parameter = next(norm.parameters(), None)
    # large, so that epsilon vanishes; a power of two, so that half precision holds it exactly
    x = (1024 * sign).to(like.device if parameter is None else parameter.device)[None, None]
    x = x.to(torch.float32 if parameter is None else parameter.dtype)
    return ((norm(x) - norm(-x))[0, 0] / 2).to(sign) * sign


def unembedding(model: Model) -> Float[Tensor, "vocab d_model"]:
    """The head's weight, which takes a logit's gradient to the hidden state."""
    if hasattr(model, "original_model"):
        head = model.original_model.get_output_embeddings()
        weight = getattr(head, "original_component", head).weight.detach()
        require_plain(model, weight, "the head")
        return weight
    return model.unembed.W_U.detach().T


def output_weight(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """Output weights of a layer's neurons: their contribution per unit of activation."""
    return model.blocks[layer].mlp.W_out.detach()
