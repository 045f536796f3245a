"""Detectors: each gives every row of a client's stream a suspicion."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "detectors",
    {
        "call_rate": "portcullis_ml.detectors.call_rate:CallRate",
        "coverage": "portcullis_ml.detectors.coverage:Coverage",
        "extraction_monitor": "portcullis_ml.detectors.extraction_monitor:ExtractionMonitor",
        "hardness": "portcullis_ml.detectors.hardness:Hardness",
        "low_confidence": "portcullis_ml.detectors.low_confidence:LowConfidence",
        "mahalanobis": "portcullis_ml.detectors.mahalanobis:Mahalanobis",
        "odin": "portcullis_ml.detectors.odin:Odin",
        "prada": "portcullis_ml.detectors.prada:Prada",
        "prada_normality": "portcullis_ml.detectors.prada_normality:PradaNormality",
    },
)
