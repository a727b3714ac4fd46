"""What can be wrong with a file that comes in, or with a folder that results go out to."""


class InterchangeError(ValueError):
    """A neuron list that cannot be read, or results that cannot be written as asked."""
