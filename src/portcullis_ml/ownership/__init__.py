"""Ownership: each scheme marks a model or its answers, and gives evidence."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog("ownership", {})
