"""Privacy attacks: each says what a model gives away about the rows that it was trained on."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "privacy",
    {
        "loss_threshold": "portcullis_ml.privacy.loss_threshold:LossThreshold",
        "representers": "portcullis_ml.privacy.representers:Representers",
    },
)
