"""Text that a model writes with and without a lesion."""

from pathlib import Path

import torch

from grammar_lens.lesions import lesion
from grammar_lens.model import Model, device_of, load_model
from grammar_lens.run import load_run
from grammar_lens.selection import Neurons


def write_on(
    model: Model, prompt: str, *, tokens: int = 40, temperature: float = 0.0, seed: int = 0
) -> str:
    """The prompt and what the model writes after it; temperature 0 takes the likeliest token."""
    coded = model.tokenizer(prompt, return_tensors="pt").input_ids.to(device_of(model))
    sampling = temperature > 0
    options = {"temperature": temperature, "do_sample": True} if sampling else {"do_sample": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        written = model.generate(
            coded, max_new_tokens=tokens, return_type="tokens", verbose=False, **options
        )
    return model.tokenizer.decode(written[0], skip_special_tokens=True)


def with_and_without(
    run: Path,
    label: str,
    *,
    prompt: str,
    dose: float,
    value: str,
    top_k: int | None,
    tokens: int,
    temperature: float,
    seed: int,
    device: str | None,
) -> tuple[str, str, Neurons]:
    """The intact text, the text under the lesion of a run's key neurons, and these neurons."""
    stored = load_run(run)
    key = stored.keys[label]
    key = key if top_k is None else key.top(top_k)
    name = stored.config["model"]
    model = load_model(name, dtype=stored.config["dtype"], device=device)
    settings = {"tokens": tokens, "temperature": temperature, "seed": seed}
    intact = write_on(model, prompt, **settings)
    with lesion(model, key, value=value, dose=dose):
        cut = write_on(model, prompt, **settings)
    return intact, cut, key
