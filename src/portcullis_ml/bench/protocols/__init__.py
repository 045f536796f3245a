"""Protocols: published experiments with every setting fixed, run on real data, printed beside what was published.

A protocol is a function of a `plans.Run` that returns its table as Markdown.
Its settings stand in a TOML file of the same name, with the published figures; changing one is a new version.
"""

from portcullis_ml.catalog import Catalog

__all__ = ["PROTOCOLS"]

PROTOCOLS = Catalog(
    "bench",
    {
        "active-thief": "portcullis_ml.bench.protocols.active_thief:active_thief",
        "adi": "portcullis_ml.bench.protocols.adi:adi",
        "canaries": "portcullis_ml.bench.protocols.canaries:canaries",
        "chain-faces": "portcullis_ml.bench.protocols.chain_faces:chain_faces",
        "chain-membership": "portcullis_ml.bench.protocols.chain_membership:chain_membership",
        "court": "portcullis_ml.bench.protocols.court:court",
        "dataset-inference": "portcullis_ml.bench.protocols.dataset_inference:dataset_inference",
        "dawn": "portcullis_ml.bench.protocols.dawn:dawn",
        "deep-defense": "portcullis_ml.bench.protocols.deep_defense:deep_defense",
        "diverse-ensemble": "portcullis_ml.bench.protocols.defended:diverse_ensemble",
        "hardness": "portcullis_ml.bench.protocols.hoda:hardness",
        "inversion": "portcullis_ml.bench.protocols.inversion:inversion",
        "knockoff-architecture": "portcullis_ml.bench.protocols.knockoff:architecture",
        "knockoff-budget": "portcullis_ml.bench.protocols.knockoff:budget",
        "knockoff-classes": "portcullis_ml.bench.protocols.knockoff:classes",
        "knockoff-diversity": "portcullis_ml.bench.protocols.knockoff:diversity",
        "knockoff-granularity": "portcullis_ml.bench.protocols.knockoff:granularity",
        "knockoff-overlap": "portcullis_ml.bench.protocols.knockoff:overlap",
        "knockoff-pretraining": "portcullis_ml.bench.protocols.knockoff:pretraining",
        "mad": "portcullis_ml.bench.protocols.defended:mad",
        "membership": "portcullis_ml.bench.protocols.membership:membership",
        "memorization": "portcullis_ml.bench.protocols.memorization:memorization",
        "misinformation": "portcullis_ml.bench.protocols.defended:misinformation",
        "monitor": "portcullis_ml.bench.protocols.monitor:monitor",
        "ood-filter": "portcullis_ml.bench.protocols.defended:ood_filter",
        "prada-gtsrb": "portcullis_ml.bench.protocols.prada:gtsrb",
        "prada-mnist": "portcullis_ml.bench.protocols.prada:mnist",
        "remember": "portcullis_ml.bench.protocols.remember:remember",
        "swift-thief": "portcullis_ml.bench.protocols.swift_thief:swift_thief",
        "tramer-ensembles": "portcullis_ml.bench.protocols.tramer:ensembles",
        "tramer-features": "portcullis_ml.bench.protocols.tramer:features",
        "tramer-labels": "portcullis_ml.bench.protocols.tramer:labels",
        "tramer-linear": "portcullis_ml.bench.protocols.tramer:linear",
        "tramer-mlp": "portcullis_ml.bench.protocols.tramer:mlp",
        "tramer-rounding": "portcullis_ml.bench.protocols.tramer:rounding",
        "tramer-trees": "portcullis_ml.bench.protocols.tramer:trees",
    },
)
