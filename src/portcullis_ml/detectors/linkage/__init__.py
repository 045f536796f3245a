"""Accounts that belong together by what they ask: the linkage test, and detectors over the streams of a group.

Many accounts of few questions each stay below every threshold of a detector that reads one account. Here accounts are
linked by their questions and times (`linkage`), and the streams of a group are read as one (`pooled`).
"""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "linkage",
    {
        "linkage": "portcullis_ml.detectors.linkage.linkage:Linkage",
        "pooled": "portcullis_ml.detectors.linkage.pooled:Pooled",
    },
)
