"""Texts written by the model of a stored run with and without a lesion of its key neurons."""

from collections.abc import Sequence
from pathlib import Path

from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError
from grammar_lens.generation.comparison import Comparison, compare_tags
from grammar_lens.generation.tagging import POSITION, Tagger
from grammar_lens.generation.writing import Written, write_on
from grammar_lens.lesions.context import lesion
from grammar_lens.runs.run import load_run
from grammar_lens.runs.session import Session


def with_and_without(
    path: Path,
    label: str,
    *,
    prompts: Sequence[str],
    dose: float = 1.0,
    value: str = "mean",
    top_k: int | None = None,
    tokens: int = 40,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = SEED,
    device: str | None = None,
) -> Comparison:
    """Continuations with and without the lesion of a run's key neurons, and their words' tags.

    The probe that the run stored at the position `word` reads the tags of both texts from the
    intact model. `value` "resample" draws from words of the run's training data.
    Raises GrammarLensError for a run without key neurons or without a stored probe.
    """
    run = load_run(path)
    probe = run.fitted_at(POSITION)
    key = run.keys[label]
    key = key if top_k is None else key.top(top_k)
    if not len(key):
        raise GrammarLensError(f"{label!r} has no key neurons in {path}: there is nothing to cut")
    session = Session.of(run, device=device)
    model = session.model
    settings = {"tokens": tokens, "temperature": temperature, "samples": samples, "seed": seed}
    donors = None
    if value == "resample":
        donors = session.donors(key, run.main_position, seed=seed)
    intact = write_on(model, prompts, **settings)
    with lesion(model, key, value=value, dose=dose, donors=donors, seed=seed):
        lesioned = write_on(model, prompts, **settings)
    tags, unread = compare_tags(Tagger(model, probe), intact, lesioned, seed=seed)
    return Comparison(
        prompts=tuple(prompts),
        intact=_texts(intact),
        lesioned=_texts(lesioned),
        label=label,
        n_neurons=len(key),
        value=value,
        dose=dose,
        temperature=temperature,
        seed=seed,
        tags=tags,
        unread=unread,
        probe=run.probe_at(POSITION),
    )


def _texts(written: Sequence[Sequence[Written]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sample.text for sample in samples) for samples in written)
