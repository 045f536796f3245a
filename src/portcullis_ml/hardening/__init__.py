"""Hardenings: each trains a victim that is harder to steal, and gives a model."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "hardening",
    {
        "diverse_ensemble": "portcullis_ml.hardening.diverse_ensemble:DiverseEnsemble",
        "input_quantisation": "portcullis_ml.hardening.input_quantisation:InputQuantisation",
        "outlier_exposure": "portcullis_ml.hardening.outlier_exposure:OutlierExposure",
        "private_training": "portcullis_ml.hardening.private_training:PrivateTraining",
    },
)
