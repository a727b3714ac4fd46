"""Evidence of halves of the sentences, label by label."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grammar_lens.corpus.origin import Origin
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.evidence import MIN_HALF, Attribution, Evidence, Sample
from grammar_lens.selectivity.scoring import score

LABELS = ("ADJ", "NOUN", "VERB")
ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")


def moments(seed: int, count: list[float]) -> Moments:
    rng = np.random.default_rng(seed)
    mean, m2 = rng.normal(size=(3, 2, 4)), rng.random((3, 2, 4)) * 10
    fired = rng.integers(0, 2, (3, 2, 4)).astype(float)
    return Moments(LABELS, np.array(count, float), mean, m2, fired, rng.random((2, 4)), ORIGIN)


def attribution(seed: int, halves: bool = True, frequency: bool = True) -> Attribution:
    """Its labels stand in another order than the moments'."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 2, 4))
    parts = (
        (attribution(seed + 1, False, frequency), attribution(seed + 2, False, frequency))
        if halves
        else None
    )
    return Attribution(
        kind="own",
        reference="zero",
        labels=LABELS[::-1],
        count=rng.integers(5, 9, 3).astype(float),
        mean=values,
        origin=ORIGIN,
        frequency=np.abs(values) if frequency else None,
        halves=parts,
    )


def evidence(first: list[float], second: list[float], **more: Any) -> Evidence:
    halves = (moments(1, first), moments(2, second))
    return Evidence(moments=halves[0] + halves[1], halves=halves, **more)  # type: ignore[arg-type]


def test_halves_keep_the_labels_that_both_have():
    whole = evidence([5, 1, 7], [6, 9, MIN_HALF])
    split = whole.split()
    assert split is not None
    assert whole.halves is not None
    for part, half in zip(split, whole.halves, strict=True):
        assert part.moments.labels == ("ADJ", "VERB")
        for name in ("count", "mean", "m2", "fired"):
            np.testing.assert_array_equal(
                getattr(part.moments, name), getattr(half, name)[[0, 2]], err_msg=name
            )
        assert score(part, "cohens_d").labels == ("ADJ", "VERB")
        assert (part.halves, part.sample, part.nulls) == (None, None, {})
    assert split[0].moments.count.tolist() == [5, 7]
    assert split[1].moments.count.tolist() == [6, 2]


def test_without_halves_or_two_labels_there_is_no_split():
    whole = evidence([5, 6, 7], [5, 6, 7])
    assert replace(whole, halves=None).split() is None
    assert evidence([5, 0, 1], [5, 6, 7]).split() is None
    assert evidence([5, 0, 7], [5, 6, 7]).split() is not None


@pytest.mark.parametrize("frequency", [True, False])
def test_attributions_are_split_by_the_name_of_the_label(frequency: bool):
    own, joint = attribution(5, frequency=frequency), attribution(9)
    whole = evidence([5, 1, 7], [6, 9, 8], attribution=own, integrated_gradients=joint)
    split = whole.split()
    assert split is not None
    for i, part in enumerate(split):
        for got, of in ((part.attribution, own), (part.integrated_gradients, joint)):
            assert got is not None
            assert of.halves is not None
            half = of.halves[i]
            assert got.labels == part.moments.labels == ("ADJ", "VERB")
            for label in got.labels:
                mine, there = got.labels.index(label), half.labels.index(label)
                np.testing.assert_array_equal(got.mean[mine], half.mean[there])
                assert got.count[mine] == half.count[there]
                if half.frequency is None:
                    assert got.frequency is None
                else:
                    assert got.frequency is not None
                    np.testing.assert_array_equal(got.frequency[mine], half.frequency[there])
            assert (got.kind, got.reference) == ("own", "zero")
        want = part.attribution
        assert want is not None
        np.testing.assert_array_equal(score(part, "attribution").values, want.mean)


def test_what_was_not_halved_is_in_neither_half():
    whole = evidence([5, 6, 7], [6, 9, 8], attribution=attribution(5, halves=False))
    split = whole.split()
    assert split is not None
    assert split[0].attribution is None
    assert split[1].integrated_gradients is None


def test_a_null_is_found_by_the_name_of_its_score():
    whole = evidence([5, 6, 7], [6, 9, 8])
    assert whole.null("correlation") is None
    assert replace(whole, attribution=attribution(5)).null("attribution") is None


def test_evidence_says_what_it_is_of():
    classes = np.array([0, 1, 2, 1])
    values = np.zeros((4, 2, 4), np.float32)
    sample = Sample(LABELS, classes, np.arange(4), values, np.full(3, 9.0), ORIGIN)
    assert repr(sample) == (
        "Sample of 4 words of a-bank, 3 values of upos, read at 'next' in a-model"
    )
    one = replace(attribution(5), count=np.array([1000.0, 200, 34]))
    assert repr(one) == (
        "Attribution (own, reference zero) of a-model over 1,234 words of a-bank, 3 values of upos"
    )
