"""Canaries for a text: drawn, planted, and written beside it for whoever measures the model.

The file is JSON, {"canaries": the attack with the form of the secrets, "texts": [every canary, planted or not]}. How
often each stands in the text is counted in the text itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import describe
from portcullis_ml.data.text import plant

__all__ = ["FORM", "PlantedCanaries", "canary_file", "write_planted"]

FORM = ("prefix", "symbols", "length")  # settings of the attack that say how its secrets look


@dataclass(frozen=True)
class PlantedCanaries:
    """Canaries of one form: `attack` has the form, `texts` are all, those that were never planted among them."""

    attack: Any
    texts: tuple[str, ...]

    @classmethod
    def drawn(
        cls, attack: Any, documents: Sequence[str], repetitions: Sequence[int], each: int, *, rng: np.random.Generator
    ) -> tuple[PlantedCanaries, list[str]]:
        """(new canaries, the documents with them planted): `each` for every number of repetitions, as many never.

        InputError where a canary stands in the documents already, planted or not.
        """
        texts = attack.draw(2 * each * len(repetitions), rng=rng)
        often = np.repeat([*repetitions, *[0] * len(repetitions)], each)
        plant(documents, dict.fromkeys(texts, 0), rng=rng)  # none stands there
        planted = {text: int(times) for text, times in zip(texts, often, strict=True) if times}
        return cls(attack, tuple(texts)), plant(documents, planted, rng=rng)

    @classmethod
    def read(cls, path: Path, attack: Any) -> PlantedCanaries:
        """The canaries in a file; `attack` says how they are measured. InputError for a file of another kind."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            form, texts = found["canaries"], [str(text) for text in found["texts"]]
            whole = replace(attack, **{name: form[name] for name in FORM})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The canaries were expected in {path}, as `portcullis privacy --plant` writes them; it cannot be read "
                f"({type(error).__name__}: {error}). Name the file beside the planted text."
            ) from error
        if len(set(texts)) < len(texts) or not texts:
            raise InputError(f"{path} was expected to hold different canaries; it has none, or one twice. Draw others.")
        return cls(whole, tuple(texts))

    def counted(self, documents: Sequence[str]) -> NDArray[np.int64]:
        """(n,) how often each canary stands in the documents. InputError where none does."""
        whole = "\n\n".join(documents)
        often = np.array([whole.count(text) for text in self.texts], np.int64)
        if not often.any():
            raise InputError(
                f"The text was expected to hold canaries; none of the {len(self.texts):,} stands in it. Name the text "
                "that --plant wrote and that the model was trained on."
            )
        return often

    def to_json(self) -> Mapping[str, Any]:
        return {"canaries": describe(self.attack), "texts": list(self.texts)}


def canary_file(text: Path) -> Path:
    """Where the canaries of a text are written: text.txt has text.canaries.json."""
    return text.with_suffix(".canaries.json")


def write_planted(canaries: PlantedCanaries, documents: Sequence[str], path: Path) -> tuple[Path, Path]:
    """Write the planted text to `path` and its canaries beside it; both paths. InputError for a file that is there."""
    for target in (path, canary_file(path)):
        if target.exists():
            raise InputError(
                f"{target} is there already, and canaries are drawn once. Choose another name for --plant."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    canary_file(path).write_text(json.dumps(canaries.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
    return path, canary_file(path)
