"""Language models as hooked transformers: the only module that imports transformer_lens.

Two kinds of model are taken, `TransformerBridge` (TransformerLens 3.9 and 4) and `HookedTransformer`
(3.x). The rest of the package sees only the functions below, so the difference ends here.
"""

from grammar_lens.defaults import SITES
from grammar_lens.model.about import (
    GATE,
    Model,
    context_length,
    describe,
    device_of,
    embedding,
    fingerprint,
    has_gate,
    hook_name,
    is_hooked,
    mid_reaches_residual,
    model_name,
    n_parameters,
    place_name,
    site_width,
    sizes_of,
    supported_architectures,
    vocabulary_size,
)
from grammar_lens.model.fast_path import KeysValues
from grammar_lens.model.forward import (
    check_head,
    final_hidden,
    head_logits,
    hooked,
    next_token_logits,
    watch_tokens,
)
from grammar_lens.model.kv_cache import (
    Continuation,
    can_continue,
    keys_and_values,
    require_keys_values,
)
from grammar_lens.model.loading import REFERENCE_MODEL, has_weights, load_model, load_shape, locate
from grammar_lens.model.weights import (
    neuron_contrast,
    output_contrast,
    output_norms,
    output_weight,
    token_effects,
    unembedding,
)

__all__ = [
    "GATE",
    "REFERENCE_MODEL",
    "SITES",
    "Continuation",
    "KeysValues",
    "Model",
    "can_continue",
    "check_head",
    "context_length",
    "describe",
    "device_of",
    "embedding",
    "final_hidden",
    "fingerprint",
    "has_gate",
    "has_weights",
    "head_logits",
    "hook_name",
    "hooked",
    "is_hooked",
    "keys_and_values",
    "load_model",
    "load_shape",
    "locate",
    "mid_reaches_residual",
    "model_name",
    "n_parameters",
    "neuron_contrast",
    "next_token_logits",
    "output_contrast",
    "output_norms",
    "output_weight",
    "place_name",
    "require_keys_values",
    "site_width",
    "sizes_of",
    "supported_architectures",
    "token_effects",
    "unembedding",
    "vocabulary_size",
    "watch_tokens",
]
