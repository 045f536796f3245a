"""Flags: what would make an audit flatter a defense, or a claim say more than was measured.

Croce, Hein. "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, whose code warns in the same way of evaluations that cannot be trusted.

`FLAGS` says of each flag when it is raised, why it matters and what to do; the docs and the report print it. Flags of
one cell are raised while it runs (`audit_cell.py`); those that need several cells, by `flagged.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FLAGS", "Flag", "raised"]


@dataclass(frozen=True)
class Flag:
    title: str
    raised_if: str
    why: str
    what_to_do: str


FLAGS: dict[str, Flag] = {
    "attack_does_not_steal": Flag(
        "The attack does not steal even without a defense",
        "the undefended attack's agreement is not clearly above that of the controls that learn nothing from the API",
        "A defense cannot be credited with stopping an attack that fails by itself; its verdict is withheld.",
        "Raise the budget, give a pool nearer to the victim's domain, or choose another attack.",
    ),
    "attack_failed": Flag(
        "An attack failed behind a defense",
        "its copy agrees with the victim less often than the most frequent answer does, and no guard shut it out",
        "The attack broke on the defended answers; that is its own limit, and another attack may not break.",
        "Credit the defense with its worst attacker only; the report never counts less than what asking nothing gives.",
    ),
    "budget_not_spent": Flag(
        "The budget was not spent",
        "an attack ended by itself with more than a tenth of its budget left",
        "What it could have done with the rest is unknown, so agreement at the full budget may be too low.",
        "Give a larger pool, or compare at the number of queries that was really paid.",
    ),
    "control_is_not_random": Flag(
        "An attack finds members of a model that was not trained on them",
        "the interval of its area under the curve lies above 50% on a model that was trained without all candidates",
        "What it finds is not membership but how members were chosen, and it finds that in the victim too.",
        "Draw members and non-members from the same source at random, and count only what goes beyond this control.",
    ),
    "difference_within_error": Flag(
        "The intervals are wider than the difference",
        "the worst attacker's interval behind the defense overlaps the worst attacker's interval without it",
        "The defense may do nothing at all: chance alone explains a difference of this size.",
        "Use more seeds (--seeds 5 or more) and more test rows before saying that it helps.",
    ),
    "documents_repeat": Flag(
        "The training text repeats documents",
        "documents other than canaries stand in the text more than once",
        "What repeats is learnt by heart first, and no longer counts as the secret of one document.",
        "Remove repeated documents before training.",
    ),
    "few_canaries": Flag(
        "Few canaries",
        "fewer than 5 canaries stand in the text equally often",
        "The exposure of one canary is a matter of luck: 5 bits come by chance once in 32.",
        "Plant more of each with --each before training, and read means with their intervals.",
    ),
    "few_seeds": Flag(
        "Few seeds",
        "fewer than 5 seeds were used",
        "Training varies from run to run; with three runs an interval rests on a guess of that spread.",
        "Run again with --seeds 5 or more; finished cells are not run again.",
    ),
    "labels_beat_scores": Flag(
        "Labels alone give more than the defended scores",
        "an attack gets a clearly better copy from labels only than from the answers that this defense gives",
        "The defense hides information that the thief does not need: who ignores its scores is better off.",
        "Read the worst attacker behind the defense, which counts those who look at labels only.",
    ),
    "labels_changed": Flag(
        "Honest clients get wrong labels",
        "the defense changed the label of at least one honest query",
        "A defense can always lower theft by answering wrongly; the cost falls on the honest clients as well.",
        "Read agreement together with the accuracy that honest clients keep.",
    ),
    "members_by_class": Flag(
        "Members and non-members have different classes",
        "a chi-squared test says so at one in a thousand",
        "An attack that guesses by the class alone looks as if it saw membership.",
        "Draw both at random from the same rows, or give as many of each class.",
    ),
    "members_look_different": Flag(
        "Members can be told without the model",
        "a classifier that sees the candidates and never the model tells members from others better than chance",
        "The two sets come from different sources or times, and an attack may find that instead of membership.",
        "Draw both at random from the same rows; until then, count only what goes beyond the blind baseline.",
    ),
    "never_planted_stand_out": Flag(
        "Canaries that were never planted stand out",
        "the interval of their mean exposure lies above 1.44 bits, which any such secret averages",
        "Something other than training makes these canaries likelier than the references, in the planted ones too.",
        "Let --plant draw them at random from all secrets of their form; count only what goes beyond them.",
    ),
    "no_innocent_control": Flag(
        "No control was run on a model without the candidates",
        "there was no pool of labelled rows to train one on",
        "Such a model shows what an attack finds where there is nothing to be found.",
        "Give labelled rows that are neither members nor non-members with --pool.",
    ),
    "one_account": Flag(
        "The thief had one account only",
        "a defense that remembers its clients was measured against a single account",
        "A thief who spreads the same queries over many accounts shows each detector only a small part of them.",
        "Do not count on blocking alone; require accounts to cost something, and look at the label-only row.",
    ),
    "outside_is_the_pool": Flag(
        "The owner trained with rows of the thief's pool",
        "at least one of the outside rows that a defense or a hardening was trained with is also in the thief's pool",
        "The defense has seen the very questions that it is then judged by; no owner knows a thief's rows.",
        "Give outside rows from another source with --outside, or remove those rows from the pool.",
    ),
    "own_labels_as_good": Flag(
        "The thief's own labels are as good as the API",
        "the best undefended attack is not shown to agree more often than training on the pool's own labels, on the "
        "same test rows and seeds",
        "What can be made need not be stolen: the queries bought no more than labelling the pool by hand.",
        "Audit with a pool that the thief cannot label, or read the result as the price of a labelled pool.",
    ),
    "pool_not_checked": Flag(
        "Nobody could check the pool against the training set",
        "the victim's training set was not given",
        "If the pool overlaps it, the thief starts from rows that no real thief would have.",
        "Give it with --train FILE; it is compared with the pool, and no thief sees it.",
    ),
    "pool_overlaps_training": Flag(
        "The pool holds rows that the victim was trained on",
        "at least one row of the thief's pool or seeds is also in the victim's training set",
        "The victim answers such rows from memory, so the attack looks stronger or the defense weaker than it is.",
        "Remove those rows from the pool.",
    ),
    "randomised_answers": Flag(
        "The same question gets different answers",
        "one query, asked twice by one client and once by another, met different answers",
        "A thief averages repeats and undoes the noise; an attack that asks once makes it look stronger than it is.",
        "Key the noise by the question (as Portcullis' own defenses do), or attack with averaged repeats.",
    ),
    "regimes_differ": Flag(
        "The defense knew where the thief's rows come from",
        "behind a defense trained with rows from the source of the thief's pool (matched) an attack's agreement is "
        "more than 10 points away from that behind the same defense trained with rows from elsewhere (held out)",
        "An owner seldom has rows from the thief's own source, so the matched figure promises what few will get.",
        "Read the row [held out], and try other sources with --outside before you count on either.",
    ),
    "stranger_is_better": Flag(
        "A plain stranger steals more than the attacks",
        "on the same test rows, a stock model fitted to the pool's rows and to uniform questions agrees with the "
        "victim clearly more often than the best attack, undefended or behind a defense",
        "The attacks of this audit are too weak there, so another attacker may get further than the stranger.",
        "The stranger is counted as the worst attacker; try other --attacks, such as retraining with surrogate=auto.",
    ),
    "test_was_queried": Flag(
        "Test rows were queried",
        "at least one row of the thief's transfer set is also a test row",
        "Agreement on a row whose answer was bought measures memory, not the copy.",
        "Remove the test rows from the pool and the seeds.",
    ),
    "threshold_on_evaluated_rows": Flag(
        "A threshold was set on the rows that it is judged by",
        "fewer than 10 of the evaluated non-members set the threshold for a false positive rate of 1%",
        "The interval is over members and takes the threshold as given, so it says less than the whole uncertainty.",
        "Give at least 1,000 non-members, or read the rate at 10%.",
    ),
    "too_few_non_members": Flag(
        "Too few non-members for the rate that is named",
        "fewer than 10 false positives are to be expected at a false positive rate of 0.1%",
        "A few rows decide where the threshold lies, and the share of members found moves with them.",
        "Give at least 10,000 non-members, or read the rate at 1%.",
    ),
}


def raised(id: str, detail: str = "") -> dict[str, str]:
    """A raised flag as it stands in a record. The id must be known."""
    FLAGS[id]  # a flag without an explanation is a mistake in the code
    return {"id": id, "detail": detail}
