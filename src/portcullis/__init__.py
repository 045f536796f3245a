"""Portcullis: how cheaply a model can be stolen through its API, a guard for the API, and proof of the theft."""

__version__ = "0.1.0"
