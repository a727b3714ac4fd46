"""Small Llama models whose tag neurons are known by construction, with text to study them on."""

from grammar_lens.certification.planted.chain import TAGS, TagChain, draw_chain
from grammar_lens.certification.planted.design import KINDS
from grammar_lens.certification.planted.world import PlantedError, World, plant

__all__ = ["KINDS", "TAGS", "PlantedError", "TagChain", "World", "draw_chain", "plant"]
