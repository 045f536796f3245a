"""Extraction attacks: each takes an oracle and returns a copy."""

from portcullis_ml.catalog import Catalog, Default

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "extraction",
    {
        "active_thief": "portcullis_ml.extraction.active_thief:ActiveThief",
        "averaging": "portcullis_ml.extraction.averaging:Averaging",
        "copycat": "portcullis_ml.extraction.copycat:Copycat",
        "d_dae": "portcullis_ml.extraction.d_dae:DDae",
        "dfme": "portcullis_ml.extraction.dfme:Dfme",
        "equation_solving": "portcullis_ml.extraction.equation_solving:EquationSolving",
        "feature_extraction": "portcullis_ml.extraction.feature_extraction:FeatureExtraction",
        "functional_equivalence": "portcullis_ml.extraction.functional_equivalence:FunctionalEquivalence",
        "gradient_matching": "portcullis_ml.extraction.gradient_matching:GradientMatching",
        "in_distribution": "portcullis_ml.extraction.in_distribution:InDistribution",
        "jacobian": "portcullis_ml.extraction.jacobian:Jacobian",
        "kernel": "portcullis_ml.extraction.kernel:Kernel",
        "knockoff": "portcullis_ml.extraction.knockoff:Knockoff",
        "least_likely": "portcullis_ml.extraction.least_likely:LeastLikely",
        "lowd_meek": "portcullis_ml.extraction.lowd_meek:LowdMeek",
        "maze": "portcullis_ml.extraction.maze:Maze",
        "retraining": "portcullis_ml.extraction.retraining:Retraining",
        "swift_thief": "portcullis_ml.extraction.swift_thief:SwiftThief",
        "tree_ensembles": "portcullis_ml.extraction.tree_ensembles:TreeEnsembles",
        "tree_paths": "portcullis_ml.extraction.tree_paths:TreePaths",
    },
    presets={
        "knockoff_adaptive": "knockoff(selection=adaptive)",
        "papernot": "jacobian(direction=away)",  # JbDA: the set doubles every round, the sign flips every third
        "papernot_reservoir": "jacobian(direction=away, sigma=3, kappa=400)",  # linear growth after round 3
        "jb_top3": "jacobian(direction=top_k, k=3)",
        "jb_top7": "jacobian(direction=top_k, k=7)",
        "jb_self": "jacobian(direction=own_class)",
    },
    # Rows of numbers may come from a linear model or from trees, and whoever holds no pool still asks about points of
    # their own, also where only labels are shown: without retraining, an API that hides its scores would look safe.
    # Of synthetic questions there are two kinds, as detectors miss one of them; they need a copy with gradients.
    defaults=[
        Default("equation_solving", "exact", ("flat",)),
        Default("equation_solving", "exact", ("no pool", "no text")),
        Default("equation_solving", "exact", ("no torch", "no text")),
        Default("tree_ensembles", "exact, of trees", ("trees",)),
        Default("tree_paths", "exact, of trees", ("numbers", "tree")),
        Default("retraining", "points where the copy is unsure", ("flat", "no numbers")),
        Default("retraining(strategy=uniform)", "points drawn evenly", ("flat",)),
        Default("knockoff", "natural questions", ("pool",)),
        Default("active_thief", "texts that teach most", ("pool", "text")),
        Default("copycat", "synthetic questions towards other classes", ("pool", "text")),
        Default("jb_top3", "synthetic questions towards other classes", ("no numbers", "pool", "torch")),
        Default("copycat", "synthetic questions towards other classes", ("no numbers", "pool", "no torch")),
        Default(
            "papernot",
            "synthetic questions away from the class",
            ("no numbers", "pool", "torch", "no quick", "no text"),
        ),
        Default("gradient_matching", "explanations", ("no numbers", "explains", "torch")),
    ],
)
