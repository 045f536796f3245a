"""Defenses: each changes, withholds or passes an answer."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "defenses",
    {
        "block": "portcullis_ml.defenses.block:Block",
        "label_only": "portcullis_ml.defenses.label_only:LabelOnly",
        "log": "portcullis_ml.defenses.log:Log",
        "other_class": "portcullis_ml.defenses.other_class:OtherClass",
        "out_of_domain": "portcullis_ml.defenses.out_of_domain:OutOfDomain",
        "quota": "portcullis_ml.defenses.quota:Quota",
        "rounding": "portcullis_ml.defenses.rounding:Rounding",
        "top_k": "portcullis_ml.defenses.top_k:TopK",
        "watch": "portcullis_ml.defenses.watch:Watch",
    },
)
