"""Privacy attacks: each says what a model gives away about the rows that it was trained on."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "privacy",
    {
        "attribute_inference": "portcullis_ml.privacy.attribute_inference:AttributeInference",
        "gap": "portcullis_ml.privacy.gap:Gap",
        "label_only": "portcullis_ml.privacy.label_only:LabelOnly",
        "label_only_inversion": "portcullis_ml.privacy.label_only_inversion:LabelOnlyInversion",
        "lira": "portcullis_ml.privacy.lira:Lira",
        "loss_threshold": "portcullis_ml.privacy.loss_threshold:LossThreshold",
        "mi_face": "portcullis_ml.privacy.mi_face:MiFace",
        "representers": "portcullis_ml.privacy.representers:Representers",
        "rmia": "portcullis_ml.privacy.rmia:Rmia",
        "shadow": "portcullis_ml.privacy.shadow:Shadow",
    },
)
