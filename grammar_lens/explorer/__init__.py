"""The explorer: a page on this machine to look at a run's neurons and to lesion them by hand."""

from grammar_lens.explorer.app import make_app, serve

__all__ = ["make_app", "serve"]
