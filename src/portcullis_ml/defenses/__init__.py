"""Defenses: each changes, withholds or passes an answer."""

from portcullis_ml.catalog import Catalog, Default

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "defenses",
    {
        "adaptive_misinformation": "portcullis_ml.defenses.adaptive_misinformation:AdaptiveMisinformation",
        "block": "portcullis_ml.defenses.block:Block",
        "dawn": "portcullis_ml.defenses.dawn:Dawn",
        "deep_defense": "portcullis_ml.defenses.deep_defense:DeepDefense",
        "label_only": "portcullis_ml.defenses.label_only:LabelOnly",
        "label_preserving_noise": "portcullis_ml.defenses.label_preserving_noise:LabelPreservingNoise",
        "log": "portcullis_ml.defenses.log:Log",
        "noise": "portcullis_ml.defenses.noise:LogitNoise",
        "other_class": "portcullis_ml.defenses.other_class:OtherClass",
        "out_of_domain": "portcullis_ml.defenses.out_of_domain:OutOfDomain",
        "prediction_poisoning": "portcullis_ml.defenses.prediction_poisoning:PredictionPoisoning",
        "priced": "portcullis_ml.defenses.priced:Priced",
        "private_answers": "portcullis_ml.defenses.private_answers:PrivateAnswers",
        "proof_of_work": "portcullis_ml.defenses.proof_of_work:ProofOfWork",
        "quota": "portcullis_ml.defenses.quota:Quota",
        "random_vertex": "portcullis_ml.defenses.random_vertex:RandomVertex",
        "reverse_sigmoid": "portcullis_ml.defenses.reverse_sigmoid:ReverseSigmoid",
        "rounding": "portcullis_ml.defenses.rounding:Rounding",
        "temperature": "portcullis_ml.defenses.temperature:Temperature",
        "top_k": "portcullis_ml.defenses.top_k:TopK",
        "watch": "portcullis_ml.defenses.watch:Watch",
    },
    defaults=[
        Default("rounding(decimals=1)", "coarser scores", ("scores",)),
        Default("top_k(k=1)", "fewer scores", ("scores", "own")),
        Default("prediction_poisoning(surrogate=random_surrogate)", "other scores", ("probs", "own", "train")),
        Default("reverse_sigmoid", "other scores", ("probs", "own")),
        Default("adaptive_misinformation(network=misinformation)", "misinformation", ("probs", "outside", "train")),
        Default("out_of_domain(filter=domain_filter)", "foreign questions", ("outside", "train")),
        Default("out_of_domain(score=msp)", "foreign questions", ("probs",)),
        Default("outlier_exposure", "hardened victim", ("outside", "train")),
        Default("watch(detector=low_confidence, then=block)", "detector", ("scores", "text")),
        Default("watch(detector=prada_normality, then=block)", "detector", ("no text",)),
    ],
)
