"""Attacks on generative models of text: each says what such a model gives away about the text it was trained on."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "sequences",
    {
        "canaries": "portcullis_ml.sequences.canaries:Canaries",
        "memorization": "portcullis_ml.sequences.memorization:Memorization",
    },
)
