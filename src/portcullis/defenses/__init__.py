"""Defenses: each changes, withholds or passes an answer."""

from portcullis.core.settings import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "defenses",
    {
        "block": "portcullis.defenses.block:Block",
        "label_only": "portcullis.defenses.label_only:LabelOnly",
        "log": "portcullis.defenses.log:Log",
        "other_class": "portcullis.defenses.other_class:OtherClass",
        "quota": "portcullis.defenses.quota:Quota",
        "rounding": "portcullis.defenses.rounding:Rounding",
        "top_k": "portcullis.defenses.top_k:TopK",
        "watch": "portcullis.defenses.watch:Watch",
    },
)
