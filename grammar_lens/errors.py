"""The one class of errors that bad input raises, and the checks that word them."""


class GrammarLensError(ValueError):
    """Input that the package cannot work with; the message says what was expected and what to do."""
