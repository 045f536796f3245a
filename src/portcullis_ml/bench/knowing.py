"""Which attackers know which defense: those that an audit runs by itself beside it, told its settings and not its key.

A defense is as good as its worst attacker, and the worst is often one who was made for it. Every unit of a guard is in
one of two tables: `ATTACKERS` names the attacks, `NONE_NEEDED` says why a unit has none.
"""

from __future__ import annotations

from portcullis_ml.bench.named import GuardSpec
from portcullis_ml.core.attack import Knowledge

__all__ = ["ATTACKERS", "NONE_NEEDED", "attackers_of"]

# a unit of a guard (a defense, a detector, a hardening) -> attacks as people write them
ATTACKERS: dict[str, tuple[str, ...]] = {
    "adaptive_misinformation": ("least_likely",),
    "coverage": ("in_distribution",),
    "dawn": ("averaging",),
    "diverse_ensemble": ("averaging",),
    "extraction_monitor": ("in_distribution",),
    "hardness": ("in_distribution",),
    "label_preserving_noise": ("averaging", "d_dae"),
    "low_confidence": ("in_distribution",),
    "mahalanobis": ("in_distribution",),
    "noise": ("averaging", "d_dae"),
    "odin": ("in_distribution",),
    "out_of_domain": ("averaging", "in_distribution"),
    "prada": ("in_distribution",),
    "prada_normality": ("in_distribution",),
    "prediction_poisoning": ("d_dae",),
    "private_answers": ("averaging", "d_dae"),
    "random_vertex": ("averaging", "d_dae"),
    "reverse_sigmoid": ("d_dae",),
    "watch": ("in_distribution",),  # whatever detector it holds
}

NONE_NEEDED: dict[str, str] = {
    "block": "It answers nothing, so there is nothing to undo; what sets it off has attackers of its own.",
    "call_rate": "It looks at no question: who knows it asks more slowly or through more accounts.",
    "deep_defense": "Labels and the order of the first classes stay; attacks on labels and explanations need no more.",
    "input_quantisation": "Its levels are part of what the victim answers, and every attack copies that.",
    "label_only": "It hides what cannot be guessed back; attacks on labels are tried everywhere.",
    "log": "It changes nothing.",
    "other_class": "It is served after an alarm; who stays below the alarm never meets it.",
    "outlier_exposure": "It trains a victim that is unsure elsewhere; every attack meets that victim's own answers.",
    "priced": "It changes no answer: who knows it asks what its detector takes for ordinary, or pays.",
    "private_training": "It hides who was trained on, not what was learned; every attack copies that as it is.",
    "proof_of_work": "It changes no answer: who knows it asks what its detector takes for ordinary, or works.",
    "quota": "It counts rows, and every attacker here has one account; the flag one_account says so.",
    "rounding": "equation_solving and retraining read rounded answers as intervals without being told.",
    "temperature": "Labels stay, no digit is lost: a copy says the same, and its powers are the scores before.",
    "top_k": "It hides what cannot be guessed back; attacks on labels are tried everywhere.",
}


def attackers_of(guard: GuardSpec) -> list[str]:
    """The attacks that know some unit of this guard, those within others included, as people write them, each once."""
    known = Knowledge(defense=guard.known).stages(*ATTACKERS)
    return list(dict.fromkeys(word for stage in known for word in ATTACKERS[stage["unit"]]))
