"""What each neuron does to a prediction: first-order lesion effects and integrated gradients.

Contributions are made per word and handed, layer by layer, to the readers that activations are
handed to, so that nothing of the size of the corpus is kept here.
"""

from grammar_lens.attribution.first_order import attribute_all, attribute_own
from grammar_lens.attribution.head import AttributionError
from grammar_lens.attribution.integrated import Completeness, integrated_gradients
from grammar_lens.attribution.top_share import TopShareReader

__all__ = [
    "AttributionError",
    "Completeness",
    "TopShareReader",
    "attribute_all",
    "attribute_own",
    "integrated_gradients",
]
