"""The steps of a run on its directory: what the commands do, one after the other or one by one.

Each step reads what earlier steps stored and stores its own result, so a run that was stopped goes
on where it was.
"""

from grammar_lens.steps.bench import Workbench, read_source
from grammar_lens.steps.planning import Forecast, forecast
from grammar_lens.steps.road import run_all, run_step
from grammar_lens.steps.settings import DEFAULT_SCORES, Config
from grammar_lens.steps.shards import collect_shard, merge_shards
from grammar_lens.steps.summing import summarise

__all__ = [
    "DEFAULT_SCORES",
    "Config",
    "Forecast",
    "Workbench",
    "collect_shard",
    "forecast",
    "merge_shards",
    "read_source",
    "run_all",
    "run_step",
    "summarise",
]
