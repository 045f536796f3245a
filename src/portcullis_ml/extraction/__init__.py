"""Extraction attacks: each takes an oracle and returns a copy."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "extraction",
    {
        "copycat": "portcullis_ml.extraction.copycat:Copycat",
        "equation_solving": "portcullis_ml.extraction.equation_solving:EquationSolving",
        "feature_extraction": "portcullis_ml.extraction.feature_extraction:FeatureExtraction",
        "jacobian": "portcullis_ml.extraction.jacobian:Jacobian",
        "kernel": "portcullis_ml.extraction.kernel:Kernel",
        "knockoff": "portcullis_ml.extraction.knockoff:Knockoff",
        "lowd_meek": "portcullis_ml.extraction.lowd_meek:LowdMeek",
        "retraining": "portcullis_ml.extraction.retraining:Retraining",
        "tree_ensembles": "portcullis_ml.extraction.tree_ensembles:TreeEnsembles",
        "tree_paths": "portcullis_ml.extraction.tree_paths:TreePaths",
    },
)
