"""Detectors: each gives every row of a client's stream a suspicion."""

from portcullis.core.settings import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "detectors",
    {
        "prada": "portcullis.detectors.prada:Prada",
        "prada_normality": "portcullis.detectors.prada_normality:PradaNormality",
    },
)
