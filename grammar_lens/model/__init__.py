"""Language models as hooked transformers: the only module that imports transformer_lens.

Two kinds of model are taken, `TransformerBridge` (TransformerLens 3.9 and 4) and `HookedTransformer`
(3.x). The rest of the package sees only the functions below, so the difference ends here.
"""
