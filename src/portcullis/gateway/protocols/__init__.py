"""Wire protocols: each turns bytes into rows and answers back into bytes, for clients and towards the upstream."""

from portcullis.core.settings import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "protocols",
    {
        "invocations": "portcullis.gateway.protocols.invocations:Invocations",
        "mapping": "portcullis.gateway.protocols.mapping:JsonPath",
        "v1": "portcullis.gateway.protocols.v1:Predict",
        "v2": "portcullis.gateway.protocols.v2:OpenInference",
    },
)
