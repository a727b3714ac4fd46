"""Small Llama models whose tag neurons are known by construction, with text to study them on."""

from grammar_lens.certification.planted.chain import TAGS, TagChain, draw_chain
from grammar_lens.certification.planted.design import KINDS
from grammar_lens.certification.planted.world import World, plant
from grammar_lens.errors import GrammarLensError

__all__ = ["KINDS", "TAGS", "GrammarLensError", "TagChain", "World", "draw_chain", "plant"]
