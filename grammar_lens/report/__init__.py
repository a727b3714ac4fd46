"""A run as one self-contained HTML page, and its figures as files.

The page loads nothing: plotly.js, styles and data are inside it, and its content security policy
forbids everything else. Words, labels and names are data and are escaped wherever they appear.
"""

from grammar_lens.report.comparison import write_comparison
from grammar_lens.report.files import write_figures
from grammar_lens.report.page import write_report

__all__ = ["write_comparison", "write_figures", "write_report"]
