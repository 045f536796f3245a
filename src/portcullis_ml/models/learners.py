"""Learners by name: how a thief trains a copy, as a word with settings, "pretrained(train=last)"."""

from __future__ import annotations

from typing import Any

from portcullis_ml.catalog import Catalog

__all__ = ["LEARNERS", "TEXT_LEARNERS", "learner_named"]

LEARNERS = Catalog(
    "learners",
    {
        "auto": "portcullis_ml.models.auto:AutoLearner",
        "auto_numbers": "portcullis_ml.models.auto_numbers:NumbersLearner",
        "auto_pictures": "portcullis_ml.models.auto_pictures:AutoPictures",
        "network": "portcullis_ml.models.torch:TorchLearner",
        "pretrained": "portcullis_ml.models.pretrained:PretrainedLearner",
        "sklearn": "portcullis_ml.models.sklearn:SklearnLearner",
        "tfidf": "portcullis_ml.models.tfidf:TfidfLearner",
    },
    presets={
        "resnet9": "network(network=picture_resnet9, optimizer=adamw, lr=0.01, schedule=one_cycle, weight_decay=0.02, "
        "epochs=15, shift=2)",
    },
)

TEXT_LEARNERS = Catalog(
    "text_learners",
    {
        "characters": "portcullis_ml.models.characters:CharacterLearner",
        "private_characters": "portcullis_ml.models.private_text:PrivateCharacterLearner",
    },
    presets={
        "gru": "characters(network=gru)",
        "transformer": "characters(network=transformer, units=64, layers=2)",
    },
)


def learner_named(word: str, device: str = "cpu", *, catalog: Catalog = LEARNERS) -> Any:
    """The learner of that name, or of "my_package.module:Class", on the device unless the word says another.

    Raises MissingExtra or InputError at once where something that it needs is not installed.
    """
    learner = catalog.build(word)
    if "device" not in word and device != "cpu" and hasattr(learner, "device"):
        from dataclasses import replace

        learner = replace(learner, device=device)
    if hasattr(learner, "ready"):
        learner.ready()
    return learner
