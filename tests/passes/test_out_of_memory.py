"""Memory that really runs out: a process that may have no more than it has now, and a little."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import resource, sys, warnings
import numpy as np, torch
import grammar_lens as gl
from grammar_lens.corpus.corpus import prepare
from grammar_lens.selectivity.collecting import Collection
from grammar_lens.selectivity.collect_plan import CollectSpec

torch.set_num_threads(1)
out, limited = sys.argv[1], sys.argv[2] == "limited"
model = gl.load_model()
bank = gl.load_treebank()["test"]
corpus = prepare(model, gl.Treebank("few", bank.sentences[:150]), labels=("NOUN", "VERB", "PUNCT"))
read = lambda budget: Collection(
    model, [corpus], CollectSpec(("neuron", "resid_post"), ("next",), 0, 0, False, 0), budget
)
read(64).read(False)  # what is only loaded once is loaded
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if limited:
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 24 * 2**20, resource.RLIM_INFINITY))
    job = read(8192)
    job.read(False)
    if limited:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for warning in caught:
    print(warning.message, file=sys.stderr)
(found,) = job.results()
np.savez(out, **{f"{s}.{n}": getattr(found[s], n) for s in ("neuron", "resid_post") for n in ("count", "mean", "m2", "fired")})
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc and RLIMIT_AS")
def test_batches_are_halved_when_the_host_has_no_memory_left(tmp_path: Path) -> None:
    """The same moments come out, and the budget is told."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    got = {}
    for how in ("plenty", "limited"):
        out = tmp_path / f"{how}.npz"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(out), how],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        told = "out of memory: the token budget is now" in done.stderr
        assert told == (how == "limited"), done.stderr
        got[how] = np.load(out)
    for name, want in got["plenty"].items():
        if name.endswith(("count", "fired")):
            np.testing.assert_array_equal(got["limited"][name], want)
        else:
            np.testing.assert_allclose(got["limited"][name], want, rtol=2e-4, atol=1e-5)
