"""Portcullis: how cheaply a model can be stolen through its prediction API, and a guard for the API."""

__version__ = "0.2.0.dev0"
