"""Attribution of predictions to neurons: first-order lesion effects and integrated gradients.

Contributions are made per word and handed, layer by layer, to the readers that activations are
handed to, so that nothing of the size of the corpus is kept here.
"""
