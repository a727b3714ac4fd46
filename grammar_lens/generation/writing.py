"""Continuations of prompts, one or several of each at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.model.about import Model, context_length, device_of, model_name


@dataclass(frozen=True)
class Written:
    """A prompt and what a model wrote after it, from the character `begin` on.

    `ended` says whether the model ended the text itself; otherwise its last word may be unfinished.
    """

    text: str
    begin: int
    ended: bool


def write_on(
    model: Model,
    prompts: Sequence[str],
    *,
    tokens: int = 40,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = SEED,
) -> list[tuple[Written, ...]]:
    """`samples` continuations of every prompt; temperature 0 takes the likeliest token.

    The same seed draws the same random numbers whatever the model, so that texts with and without
    a lesion differ by the lesion alone.
    Raises GrammarLensError for settings that make no sense, an empty prompt, and more tokens than
    the model's context holds.
    """
    _check(prompts, tokens, temperature, samples)
    sampling = temperature > 0
    options = {"temperature": temperature, "do_sample": True} if sampling else {"do_sample": False}
    written = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for prompt in prompts:
            coded = model.tokenizer(prompt, return_tensors="pt").input_ids
            if coded.shape[1] + tokens > context_length(model):
                raise GrammarLensError(
                    f"a prompt of {coded.shape[1]} tokens and {tokens} more do not fit into the "
                    f"{context_length(model)} that {model_name(model)} reads: write fewer (--tokens)"
                )
            generated = model.generate(
                coded.expand(samples, -1).to(device_of(model)),
                max_new_tokens=tokens,
                return_type="tokens",
                verbose=False,
                **options,
            )
            written.append(
                tuple(_decoded(model, row, coded.shape[1]) for row in generated.tolist())
            )
    return written


def _decoded(model: Model, ids: list[int], n_prompt: int) -> Written:
    decode = model.tokenizer.decode
    text = decode(ids, skip_special_tokens=True)
    prompt = decode(ids[:n_prompt], skip_special_tokens=True)
    # where a token completes a character that the prompt began, the prompt ends before it
    alike = (a == b for a, b in zip(text, prompt, strict=False))
    begin = len(list(takewhile(bool, alike)))
    return Written(text, begin, model.tokenizer.eos_token_id in ids[n_prompt:])


def _check(prompts: Sequence[str], tokens: int, temperature: float, samples: int) -> None:
    for name, given in (("tokens", tokens), ("samples", samples)):
        require_at_least(f"--{name}", given, 1)
    require_at_least("--temperature", temperature, 0)
    if temperature == 0 and samples > 1:
        raise GrammarLensError(
            f"--samples is {samples}, and at --temperature 0 every sample is the same: use "
            "--temperature 1"
        )
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise GrammarLensError("a prompt is empty: give a few words for the model to continue")
