"""A run as one self-contained HTML page, and its figures as files.

The page loads nothing: plotly.js, styles and data are inside it, and its content security policy
forbids everything else. Words, labels and names are data and are escaped wherever they appear.
"""

from grammar_lens.report.comparison import render_comparison, write_comparison
from grammar_lens.report.files import write_figures
from grammar_lens.report.page import render, write_report
from grammar_lens.report.protocols import ResultsLike, RunLike

__all__ = [
    "ResultsLike",
    "RunLike",
    "render",
    "render_comparison",
    "write_comparison",
    "write_figures",
    "write_report",
]
