"""Recipes: each trains what a defense needs, on the owner's side, and gives an artifact."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "recipes",
    {
        "class_means": "portcullis_ml.recipes.class_means:ClassMeans",
        "domain_filter": "portcullis_ml.recipes.domain_filter:DomainFilter",
        "evaluation_set": "portcullis_ml.recipes.evaluation_set:EvaluationSet",
        "misdirection": "portcullis_ml.recipes.misdirection:Misdirection",
        "misinformation": "portcullis_ml.recipes.misinformation:Misinformation",
        "odin_step": "portcullis_ml.recipes.odin_step:OdinStep",
        "random_surrogate": "portcullis_ml.recipes.random_surrogate:RandomSurrogate",
        "training_steps": "portcullis_ml.recipes.training_steps:TrainingSteps",
    },
)
