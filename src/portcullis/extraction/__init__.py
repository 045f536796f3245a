"""Extraction attacks: each takes an oracle and brings home a copy."""

from portcullis.core.settings import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "extraction",
    {
        "copycat": "portcullis.extraction.copycat:Copycat",
        "equation_solving": "portcullis.extraction.equation_solving:EquationSolving",
        "feature_extraction": "portcullis.extraction.feature_extraction:FeatureExtraction",
        "jacobian": "portcullis.extraction.jacobian:Jacobian",
        "kernel": "portcullis.extraction.kernel:Kernel",
        "knockoff": "portcullis.extraction.knockoff:Knockoff",
        "lowd_meek": "portcullis.extraction.lowd_meek:LowdMeek",
        "retraining": "portcullis.extraction.retraining:Retraining",
        "tree_ensembles": "portcullis.extraction.tree_ensembles:TreeEnsembles",
        "tree_paths": "portcullis.extraction.tree_paths:TreePaths",
    },
)
