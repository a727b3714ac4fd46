"""Check that neurons belong to the model they are used with."""

from grammar_lens.errors import GrammarLensError, counted
from grammar_lens.model.about import Model, fingerprint, model_name, site_width
from grammar_lens.neurons.neurons import KeyNeurons, Neurons


def require_same_model(
    model: Model, neurons: Neurons | KeyNeurons, *, allow_other_model: bool = False
) -> None:
    """Raises GrammarLensError for neurons that were chosen in another model than this one.

    Models are distinguished by their weights (`fingerprint`); neurons that carry no fingerprint are of
    any model. With `allow_other_model` the layers and units of `KeyNeurons` must still be as many.
    """
    name = model_name(model)
    if isinstance(neurons, KeyNeurons):
        sizes = int(model.cfg.n_layers), site_width(model, neurons.origin.site)
        if (neurons.n_layers, neurons.n_units) != sizes:
            of_keys, of_model = (
                f"{counted(n, 'layer')} of {counted(units, 'unit')}"
                for n, units in ((neurons.n_layers, neurons.n_units), sizes)
            )
            raise GrammarLensError(
                f"the key neurons are of {neurons.origin.model}, with {of_keys}, and {name} has "
                f"{of_model}: give the model they were chosen in"
            )
    known = neurons.origin.weights if isinstance(neurons, KeyNeurons) else neurons.weights
    if known and not allow_other_model and known != (now := fingerprint(model)):
        raise GrammarLensError(
            f"the key neurons were chosen in a model with other weights (fingerprint {known[:12]}) "
            f"than {name} has ({now[:12]}): give the model they were chosen in, in the same "
            "precision, or pass allow_other_model=True"
        )
