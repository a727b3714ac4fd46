"""The explorer: a page on this machine to look at a run's neurons and to lesion them by hand."""

from grammar_lens.explorer.app import make_app, serve
from grammar_lens.explorer.errors import ExplorerError
from grammar_lens.explorer.prompts import LikelyToken, NextWord
from grammar_lens.explorer.session import Session

__all__ = ["ExplorerError", "LikelyToken", "NextWord", "Session", "make_app", "serve"]
