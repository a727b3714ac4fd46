"""Language models as hooked transformers: the only module that imports transformer_lens.

Two kinds of model are taken, `TransformerBridge` (TransformerLens 3.9 and 4) and `HookedTransformer`
(3.x). The rest of the package sees only the functions below, so the difference ends here.
"""

from grammar_lens.model.about import (
    GATE,
    SITES,
    Model,
    ModelError,
    context_length,
    describe,
    device_of,
    embedding,
    has_gate,
    hook_name,
    is_hooked,
    mid_reaches_residual,
    model_name,
    n_parameters,
    site_width,
    supported_architectures,
    vocabulary_size,
)
from grammar_lens.model.bare import BareModel, KeysValues, Reading
from grammar_lens.model.continuation import (
    Continuation,
    can_continue,
    key_value_hooks,
    keys_and_values,
)
from grammar_lens.model.forward import (
    check_head,
    final_hidden,
    forward_body,
    head_logits,
    hooked,
    next_token_logits,
    watch_tokens,
)
from grammar_lens.model.loading import REFERENCE_MODEL, load_model, locate
from grammar_lens.model.twin import bare_model
from grammar_lens.model.weights import output_contrast, output_norms, output_weight, unembedding

__all__ = [
    "GATE",
    "REFERENCE_MODEL",
    "SITES",
    "BareModel",
    "Continuation",
    "KeysValues",
    "Model",
    "ModelError",
    "Reading",
    "bare_model",
    "can_continue",
    "check_head",
    "context_length",
    "describe",
    "device_of",
    "embedding",
    "final_hidden",
    "forward_body",
    "has_gate",
    "head_logits",
    "hook_name",
    "hooked",
    "is_hooked",
    "key_value_hooks",
    "keys_and_values",
    "load_model",
    "locate",
    "mid_reaches_residual",
    "model_name",
    "n_parameters",
    "next_token_logits",
    "output_contrast",
    "output_norms",
    "output_weight",
    "site_width",
    "supported_architectures",
    "unembedding",
    "vocabulary_size",
    "watch_tokens",
]
