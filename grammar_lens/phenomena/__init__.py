"""Phenomena of grammar: minimal pairs, the neurons they need, and what lesions do to them."""
