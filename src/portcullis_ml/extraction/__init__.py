"""Extraction attacks: each takes an oracle and returns a copy."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "extraction",
    {
        "averaging": "portcullis_ml.extraction.averaging:Averaging",
        "copycat": "portcullis_ml.extraction.copycat:Copycat",
        "d_dae": "portcullis_ml.extraction.d_dae:DDae",
        "equation_solving": "portcullis_ml.extraction.equation_solving:EquationSolving",
        "feature_extraction": "portcullis_ml.extraction.feature_extraction:FeatureExtraction",
        "gradient_matching": "portcullis_ml.extraction.gradient_matching:GradientMatching",
        "in_distribution": "portcullis_ml.extraction.in_distribution:InDistribution",
        "jacobian": "portcullis_ml.extraction.jacobian:Jacobian",
        "kernel": "portcullis_ml.extraction.kernel:Kernel",
        "knockoff": "portcullis_ml.extraction.knockoff:Knockoff",
        "least_likely": "portcullis_ml.extraction.least_likely:LeastLikely",
        "lowd_meek": "portcullis_ml.extraction.lowd_meek:LowdMeek",
        "retraining": "portcullis_ml.extraction.retraining:Retraining",
        "tree_ensembles": "portcullis_ml.extraction.tree_ensembles:TreeEnsembles",
        "tree_paths": "portcullis_ml.extraction.tree_paths:TreePaths",
    },
    presets={
        "papernot": "jacobian(direction=away)",  # JbDA: the set doubles every round, the sign flips every third
        "papernot_reservoir": "jacobian(direction=away, sigma=3, kappa=400)",  # linear growth after round 3
        "jb_top3": "jacobian(direction=top_k, k=3)",
        "jb_top7": "jacobian(direction=top_k, k=7)",
        "jb_self": "jacobian(direction=own_class)",
    },
)
