"""The run directory: what a study found, in files that open without grammar_lens.

Arrays are safetensors, tables CSV and Parquet, the rest JSON. Every file is written under a
temporary name and renamed, so a file that is there is whole.
"""

from grammar_lens.run.arrays import (
    save_attributions,
    save_collected,
    save_fitted,
    save_scores,
)
from grammar_lens.run.directory import load_run, open_run, refuse_directory, update_record
from grammar_lens.run.examples import save_examples
from grammar_lens.run.experiment import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)
from grammar_lens.run.files import (
    DiskError,
    RunError,
    make_folder,
    to_json,
    write_file,
    write_json,
    write_text,
)
from grammar_lens.run.provenance import checkout_commit, library_versions
from grammar_lens.run.session import Run
from grammar_lens.run.stored import (
    ATTRIBUTIONS,
    CONTROLS,
    CURVES,
    FITTED,
    SHARDS,
    STEPS,
    Results,
)
from grammar_lens.run.tables import (
    outcome_table,
    save_controls,
    save_course,
    save_curves,
    save_keys,
    save_probes,
    save_study,
)

__all__ = [
    "ATTRIBUTIONS",
    "CONTROLS",
    "CURVES",
    "FITTED",
    "SHARDS",
    "STEPS",
    "DiskError",
    "Results",
    "Run",
    "RunError",
    "checkout_commit",
    "experiment_record",
    "library_versions",
    "load_run",
    "make_folder",
    "open_run",
    "outcome_table",
    "refuse_directory",
    "refuse_other_results",
    "save_attributions",
    "save_collected",
    "save_controls",
    "save_course",
    "save_curves",
    "save_examples",
    "save_fitted",
    "save_keys",
    "save_probes",
    "save_scores",
    "save_study",
    "to_json",
    "treebank_record",
    "update_record",
    "write_file",
    "write_json",
    "write_text",
]
