"""Mahalanobis: rows that are not of the model's domain fall far from every class in the model's last features.

Lee, Lee, Lee, Shin. "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
NeurIPS 2018, the section on the Mahalanobis distance, as a score of single rows: the variant of the last features
alone, which needs no outside rows.

Costs the honest client   an alarm if many of their rows lie outside of what the owner's rows look like to the model;
                          one pass of the victim's network a question, which delays every answer.
Defaults hold for         clients whose rows are drawn as the owner's were, one by one; calibrate on your own clients.
Does not see              a thief whose rows are like the victim's own; foreign rows that the network takes for ordinary
                          ones of some class; whoever asks less than one window from every account.

How foreign a row is, from 0 to 1, is said by what `class_means` has fitted: one half is crossed by a set share of the
owner's own rows. One such row says little of a client, so the suspicion is the share of foreign rows in every `window`
questions; it holds until the next window is full. Two counters are kept of a client. To act on single rows, take the
defense `out_of_domain(score=mahalanobis)`. The victim must be a PyTorch network, since its features are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.detectors._foreign import ForeignRows

__all__ = ["Mahalanobis"]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(ForeignRows):
    fitted: Artifact | Recipe = field(metadata={"recipe": "class_means"})  # what `class_means` has fitted
    threshold: float = 0.3  # the share of foreign rows that is an alarm; lower alarms sooner and more often falsely
    above: float = 0.5  # a row is foreign whose score is above; higher takes fewer for foreign
    window: int = 50  # questions in one verdict; more makes it surer and later

    name: ClassVar[str] = "mahalanobis"
    code: ClassVar[str] = "FAR_FROM_CLASSES"
    means: ClassVar[str] = "An unusual share of the questions lies far from every class in the model's last features."
