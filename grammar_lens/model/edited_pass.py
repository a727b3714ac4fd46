"""Passes through all layers that hand out activations, by the fastest hooks the model allows."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.model.about import Model, hook_name, place_name
from grammar_lens.model.fast_path import Change
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.forward import final_hidden, hooked

Forward = Callable[[Int[Tensor, "row time"]], Float[Tensor, "row time d_model"]]
"""Token ids -> the input of the head."""


@contextlib.contextmanager
def edited_pass(model: Model, changes: Mapping[tuple[str, int], Change]) -> Iterator[Forward]:
    """Yields a forward pass without head in which activations pass through their changes.

    Places are (site, layer); besides the sites there are "gate", "up", "query", "key" and "value". A change that
    returns its argument only observes. Uses plain hooks on the fast path where that is the same
    model, else the bridge's hooks, whose hook points and stepwise attention cost a tenth of the pass.
    """
    for site, layer in changes:
        if site not in ("gate", "up", "query", "key", "value"):
            hook_name(model, site, layer)
    fast = fast_path(model)
    if fast is not None and all(site in fast.places for site, _ in changes):

        def forward(token_ids: Tensor) -> Tensor:
            return fast.body(token_ids, use_cache=False).last_hidden_state

        with fast.changed(changes):
            yield forward
        return
    hooks = [(place_name(*at), _bridged(change)) for at, change in changes.items()]
    with hooked(model, hooks):
        yield lambda token_ids: final_hidden(model, token_ids)


def _bridged(change: Change) -> Callable[..., Tensor]:
    def hook(activation: Tensor, **_: object) -> Tensor:
        return change(activation)

    return hook
