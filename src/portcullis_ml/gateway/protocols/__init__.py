"""Wire protocols: each turns bytes into rows and answers back into bytes, for clients and towards the upstream."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "protocols",
    {
        "grpc": "portcullis_ml.gateway.protocols.grpc_v2:GrpcInference",
        "invocations": "portcullis_ml.gateway.protocols.invocations:Invocations",
        "mapping": "portcullis_ml.gateway.protocols.mapping:JsonPath",
        "pictures": "portcullis_ml.gateway.protocols.pictures:Pictures",
        "v1": "portcullis_ml.gateway.protocols.v1:Predict",
        "v2": "portcullis_ml.gateway.protocols.v2:OpenInference",
    },
)
