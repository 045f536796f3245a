"""Recipes: each trains what a defense needs, on the owner's side, and gives an artifact."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "recipes",
    {
        "domain_filter": "portcullis_ml.recipes.domain_filter:DomainFilter",
        "random_surrogate": "portcullis_ml.recipes.random_surrogate:RandomSurrogate",
    },
)
