"""The order of the package's rooms."""

LAYERS = (
    *("defaults", "errors", "files", "progress", "display"),
    *("model", "corpus", "passes", "selectivity", "neurons", "probing", "lesions"),
    *("dissociation", "phenomena", "certification"),
    *("figures", "report", "generation", "runs", "explorer", "cli"),
)
"""The rooms of the package from the ground up: each imports only what stands before it."""
