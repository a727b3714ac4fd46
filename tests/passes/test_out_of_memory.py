"""Memory that really runs out: a process that may have no more than it has now, and a little."""

import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
from processes import start

import grammar_lens as gl
from grammar_lens.corpus.corpus import prepare
from grammar_lens.selectivity.collect_plan import CollectSpec
from grammar_lens.selectivity.collecting import Collection


def read_words(out: Path, is_limited: bool) -> None:
    """Stores moments of some words, read at once if there is memory for it; prints the warnings."""
    model = gl.load_model()
    bank = gl.load_treebank()["test"]
    few = gl.Treebank("few", bank.sentences[:150])
    corpus = prepare(model, few, labels=("NOUN", "VERB", "PUNCT"))
    spec = CollectSpec(("neuron", "resid_post"), ("next",), 0, 0, False, 0)
    Collection(model, [corpus], spec, 64).read(False)  # what is only loaded once is loaded
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = size + 24 * 2**20 if is_limited else resource.RLIM_INFINITY
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        job = Collection(model, [corpus], spec, 8192)
        job.read(False)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(*(warning.message for warning in caught), sep="\n")
    (collected,) = job.results()
    arrays = {
        f"{site}.{part}": getattr(collected[site], part)
        for site in ("neuron", "resid_post")
        for part in ("count", "mean", "m2", "fired")
    }
    np.savez(out, **arrays)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc and RLIMIT_AS")
def test_batches_are_halved_when_the_host_has_no_memory_left(tmp_path: Path) -> None:
    """The same moments come out, and the budget is told."""
    outs = {is_limited: tmp_path / f"{is_limited}.npz" for is_limited in (True, False)}
    for is_limited, out in outs.items():
        running = start(read_words, out, is_limited, folder=tmp_path)
        assert running.ended(300) == 0, running.stderr
        assert ("out of memory: the token budget is now" in running.stdout) == is_limited
    with np.load(outs[True]) as got, np.load(outs[False]) as wanted:
        for name, want in wanted.items():
            if name.endswith(("count", "fired")):
                np.testing.assert_array_equal(got[name], want)
            else:
                np.testing.assert_allclose(got[name], want, rtol=2e-4, atol=1e-5)
