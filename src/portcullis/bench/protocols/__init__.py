"""Protocols: published experiments with every setting fixed, run on real data, printed beside what was published.

A protocol is a function `(*, out, data, quick, jobs, device, progress) -> str` that returns its table as Markdown.
Its settings stand in a TOML file of the same name, with the published figures; changing one is a new version.
"""

from portcullis.core.settings import Catalog

__all__ = ["PROTOCOLS"]

PROTOCOLS = Catalog(
    "bench",
    {
        "prada-gtsrb": "portcullis.bench.protocols.prada:gtsrb",
        "prada-mnist": "portcullis.bench.protocols.prada:mnist",
        "tramer-ensembles": "portcullis.bench.protocols.tramer:ensembles",
        "tramer-features": "portcullis.bench.protocols.tramer:features",
        "tramer-labels": "portcullis.bench.protocols.tramer:labels",
        "tramer-linear": "portcullis.bench.protocols.tramer:linear",
        "tramer-mlp": "portcullis.bench.protocols.tramer:mlp",
        "tramer-rounding": "portcullis.bench.protocols.tramer:rounding",
        "tramer-trees": "portcullis.bench.protocols.tramer:trees",
    },
)
