"""Names that settings take, and defaults that the library shares with `runs.settings`.

Nothing is imported here, so that the command line knows them before anything heavy is loaded.
"""

SITES = {
    "neuron": "blocks.{layer}.mlp.hook_post",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
}
"""Places of the model that can be read, with TransformerLens's name for each."""
POSITIONS = ("word", "next")
"""Where a word is read: at its last token, or at the token before it."""
CONTEXTS = ("sentence", "document")
"""What the model reads before a word: its sentence alone, or the document's sentences before it too."""
WINDOW = 512
"""Tokens in a window of sentences of a document."""
LEAST_WINDOW = 16
SIGNS = ("absolute", "positive", "negative")
RULES = ("top_k", "fdr", "permutation", "frequency")
TOP_K = 100
ALPHA = 0.05
MASSIVE = 100.0
"""Times the layer's median that a unit's mean absolute activation is massive from."""
MIN_REPLICATES = 20
"""Replicates that a permutation null needs at least."""
VALUES = ("zero", "mean", "resample", "resample_within")
"""What a lesioned unit is set to."""
WHERE = ("every", "scored")
"""The tokens at which a unit is lesioned: all, or for each word the one at which it is scored."""
SHAMS = 20
SHAM_SENTENCES = 200
"""Sentences at which real and sham lesions are compared."""
CURVE_KS = (10, 30, 100, 300)
"""Neurons of a label that are cut, or kept alone, for the curves over their number."""
FOLDS = 2
"""Folds of minimal pairs."""
SHAM_PAIRS = 50
"""Minimal pairs of each phenomenon at which real and sham lesions are compared."""
OTHER_SHAMS = 0
"""Shams of further values and doses, and of sufficiency."""
ATTRIBUTION_WORDS = 50_000
MAX_TRAIN_WORDS = 50_000
HEAD_BLOCK = {False: 2**24, True: 2**25}
"""Logits (words x vocabulary) made by one product with the head, without a GPU and with one."""
HEAD_CHUNK = {False: 2**20, True: 2**25}
"""Logits that are held in float64 at a time."""
LAYER_WORDS = 20_000
"""Words that probes of layers are fitted on, and as many that they are judged on, at most."""
EXAMPLE_WORDS = 20_000
EXAMPLES_EACH = 5
SEED = 0
