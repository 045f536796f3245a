"""Ownership: each scheme marks a model or its answers, and gives evidence."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "ownership",
    {
        "backdoor": "portcullis_ml.ownership.backdoor:Backdoor",
        "conferrable": "portcullis_ml.ownership.conferrable:Conferrable",
        "dataset_inference": "portcullis_ml.ownership.dataset_inference:DatasetInference",
        "dawn": "portcullis_ml.ownership.dawn:Dawn",
        "known_errors": "portcullis_ml.ownership.known_errors:KnownErrors",
    },
)
