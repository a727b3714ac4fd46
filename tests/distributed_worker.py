"""A process of tests/passes/test_distributed.py, alone or one of several."""

from pathlib import Path

import numpy as np
import torch
from typed import present

import grammar_lens as gl
from grammar_lens.corpus.corpus import fit_lexicon, prepare
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.passes import distributed
from grammar_lens.probing.probes import probe_words
from grammar_lens.selectivity.attribution.attribute import attribute
from grammar_lens.selectivity.collect_plan import CollectSpec
from grammar_lens.selectivity.collecting import Collection


def everything(folder: Path, words: Path, out: Path) -> None:
    """Collects, attributes, reads features and lesions; the main process stores what it has."""
    with distributed.started() as here:
        model = gl.load_model(folder)
        corpus = prepare(model, gl.load_treebank(words))
        quiet = {"token_budget": 60, "show_progress": False}
        wanted = CollectSpec(("neuron", "resid_post"), ("word", "next"), 20, 2, True, 0)
        collection = Collection(model, [corpus], wanted, 60)
        collection.read(False)
        (found,) = collection.results()
        result = {}
        for position in wanted.positions:
            for site, moments in found.at(position).items():
                for name in ("count", "mean", "m2", "fired", "mean_abs"):
                    result[f"{position}.{site}.{name}"] = getattr(moments, name)
        evidence = found.evidence("neuron", "next")
        result["null.mean"] = evidence.nulls["correlation"].mean
        result["sample"] = present(evidence.sample).values
        lexicon = fit_lexicon(model, corpus)
        for kind in ("own", "all"):
            result[f"attribution.{kind}"] = attribute(
                model, corpus, kind=kind, lexicon=lexicon, **quiet
            ).mean
        integrated = attribute(model, corpus, kind="integrated_gradients", steps=2, **quiet)
        result["integrated"] = integrated.mean
        result["completeness"] = np.array(integrated.completeness)
        addresses = np.array([[0, 1], [1, 2], [1, 7]])
        codes = corpus.read("word")
        features = probe_words(model, corpus, codes, "word", addresses, "neuron", 60, False)
        result["features"] = features.features
        examples = gl.examples_of(
            model, corpus, [(0, 1), (1, 7)], lexicon=lexicon, max_words=150, **quiet
        )
        for (layer, index), neuron in examples.by_neuron.items():
            for name in ("quantiles", "contrast"):
                result[f"examples.{layer}.{index}.{name}"] = getattr(neuron, name)
            values = [example.values for example in (*neuron.top, *neuron.bottom)]
            result[f"examples.{layer}.{index}.values"] = np.concatenate(values)
        keys = gl.select(gl.score(found.at("next")["neuron"], "correlation"), k=3)
        study = gl.lesion_study(
            model,
            corpus,
            keys,
            lexicon=lexicon,
            shams=2,
            others=[Ablation("resample", 1.0, "every")],
            labels=("NOUN", "VERB", "DET"),
            folder=out.with_suffix(".unfinished"),
            **quiet,
        )
        result["matrix"] = study.matrix
        outcomes = present(study.outcomes)
        result["nll"] = outcomes.nll
        result["top_label"] = outcomes.top_label
        result["tag_probability"] = outcomes.tag_probability
        # every process has the whole, to the last bit
        mine = torch.tensor([float(np.nansum(v)) for v in result.values()], dtype=torch.float64)
        if here.of > 1:
            first = mine.clone()
            torch.distributed.broadcast(first, 0)
            assert torch.equal(first, mine), "processes have different results"
        if here.is_main:
            np.savez(out, **result)
