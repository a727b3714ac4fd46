"""The card of a run that is shared as a data set on the Hugging Face hub."""

from collections.abc import Sequence

from huggingface_hub import DatasetCardData

from grammar_lens.display import markdown
from grammar_lens.files import to_json
from grammar_lens.runs.interchange.schema import Table
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.runs.summary import summarise, summary_table

TAGS = ("mechanistic-interpretability", "part-of-speech", "neurons", "lesion-study")


def dataset_card(run: StoredRun, tables: Sequence[Table], masks: Sequence[str]) -> str:
    """README.md of the data set: metadata for the hub's viewer, conclusion, numbers, how to read it.

    `masks` are the names of its safetensors files. The licence is left to the user, who chooses it.
    """
    summary = to_json(summarise(run))
    model, bank = run.config["model"], summary.get("treebank", {})
    data = DatasetCardData(
        pretty_name=f"Neurons of {model} by {bank.get('label', 'label')}",
        tags=list(TAGS),
        configs=[{"config_name": t.name, "data_files": f"{t.name}.parquet"} for t in tables],
    )
    lesion = summary.get("lesion")
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {data.pretty_name}",
        f"Neurons of `{model}` that are selective for each value of `{bank.get('label')}`, chosen on "
        f"{bank.get('train')} and tested on {bank.get('fresh')} with grammar_lens.",
        *([f"**{lesion['verdict']}**"] if lesion else []),
        "## Numbers\n\n" + _numbers(summary),
        "## Files\n\n" + _files(tables, masks),
        "## Reading it\n\n" + _reading(masks),
        "## How it was made\n\n" + _provenance(run),
        "## Licence\n\nChoose one for the numbers (`license:` in the metadata above). Sentences in "
        "`examples.parquet` are quoted from the treebank and stay under its licence; delete that file "
        "where it does not allow sharing.",
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(summary: dict[str, object]) -> str:
    """The table that `run` prints, every number beside what it must be compared with."""
    table = summary_table(summary)
    return markdown([table.HEADS, *table.rows])


def _files(tables: Sequence[Table], masks: Sequence[str]) -> str:
    lines = [("file", "holds"), *((f"`{t.name}.parquet`", t.about) for t in tables)]
    lines += [(f"`{m}`", "Masks [layer, neuron] of the key neurons, by label") for m in masks]
    return markdown([*lines, ("`datapackage.json`", "Every column's type, meaning and unit")])


def _reading(masks: Sequence[str]) -> str:
    lines = ["import pandas as pd", "", 'keys = pd.read_parquet("key_neurons.parquet")']
    if masks:
        lines += [
            "",
            "import grammar_lens as gl",
            "",
            'run = gl.load_run("your-run-of-the-same-model")',
            f'keys = gl.read_neurons("{masks[-1]}", like=run.scores)',
        ]
    return "\n".join(["```python", *lines, "```"])


def _provenance(run: StoredRun) -> str:
    settings = {k: v for k, v in run.config.items() if v not in (None, "", [])}
    versions = ", ".join(f"{name} {v}" for name, v in run.record.get("versions", {}).items())
    listed = ", ".join(f"`{name}={value!r}`" for name, value in settings.items())
    return f"{versions}.\n\nSettings: {listed}."
