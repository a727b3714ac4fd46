"""Scores: how selectively every unit responds to every label.

`score` computes one of `SCORES` from moments, or from `Evidence` where a score needs more than they
hold. A new score is a function from `Evidence` to an array [label, layer, unit] and a `Method` that
says what it needs and how to read it.
"""
