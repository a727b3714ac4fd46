"""What the explorer refuses."""


class ExplorerError(ValueError):
    """Something that the explorer cannot show, or cannot do here."""
