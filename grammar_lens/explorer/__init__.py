"""The explorer: a page on this machine to look at a run's neurons and to lesion them by hand."""

from grammar_lens.errors import GrammarLensError
from grammar_lens.explorer.app import make_app, serve
from grammar_lens.explorer.explored_run import ExploredRun
from grammar_lens.explorer.prompts import LikelyToken, NextWord

__all__ = ["ExploredRun", "GrammarLensError", "LikelyToken", "NextWord", "make_app", "serve"]
