"""The messages of the Open Inference Protocol over gRPC.

KServe, "Open Inference Protocol", github.com/kserve/open-inference-protocol. What two programs must agree on is the
numbers and types of the fields; the names of nested messages never leave a program. The messages live in a pool of
their own: in protobuf's common one they would collide with those of a client library in the same process.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["CONTENTS", "HEALTH", "METHODS", "SERVICE", "message"]

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"  # what probes of Kubernetes and load balancers ask
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

FIELDS = {  # of each message, as "name number type"; a type with * may come many times
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live 1 bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready 1 bool",
    "ModelReadyRequest": "name 1 string, version 2 string",
    "ModelReadyResponse": "ready 1 bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name 1 string, version 2 string, extensions 3 string*",
    "ModelMetadataRequest": "name 1 string, version 2 string",
    "ModelMetadataResponse": "name 1 string, versions 2 string*, platform 3 string, inputs 4 About*, outputs 5 About*",
    "About": "name 1 string, datatype 2 string, shape 3 int64*",
    "ModelInferRequest": "model_name 1 string, model_version 2 string, id 3 string, parameters 4 Parameter*, "
    "inputs 5 Tensor*, outputs 6 Wanted*, raw_input_contents 7 bytes*",
    "ModelInferResponse": "model_name 1 string, model_version 2 string, id 3 string, parameters 4 Parameter*, "
    "outputs 5 Tensor*, raw_output_contents 6 bytes*",
    "Tensor": "name 1 string, datatype 2 string, shape 3 int64*, parameters 4 Parameter*, contents 5 Contents",
    "Wanted": "name 1 string, parameters 2 Parameter*",
    "Parameter": "key 1 string, value 2 Value",  # a map, which is sent as a list of these
    "Value": "bool_param 1 bool, int64_param 2 int64, string_param 3 string, double_param 4 double, "
    "uint64_param 5 uint64",
    "Contents": "bool_contents 1 bool*, int_contents 2 int32*, int64_contents 3 int64*, uint_contents 4 uint32*, "
    "uint64_contents 5 uint64*, fp32_contents 6 float*, fp64_contents 7 double*, bytes_contents 8 bytes*",
    "HealthCheckRequest": "service 1 string",
    "HealthCheckResponse": "status 1 int32",  # 1 is serving, 2 is not
}
ONE_OF = {"Value": "parameter_choice"}  # messages of whose fields one is set

CONTENTS = {  # where the numbers of a tensor stand that does not send them raw; FP16 has no place
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def _described() -> descriptor_pb2.FileDescriptorProto:
    """FIELDS as protobuf describes a file."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="portcullis.proto", package="inference", syntax="proto3")
    for name, fields in FIELDS.items():
        about = file.message_type.add(name=name)
        if name in ONE_OF:
            about.oneof_decl.add(name=ONE_OF[name])
        for line in filter(None, fields.split(", ")):
            word, number, kind = line.split()
            many, kind = kind.endswith("*"), kind.rstrip("*")
            made = about.field.add(name=word, number=int(number))
            made.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            if kind in FIELDS:
                made.type, made.type_name = field.TYPE_MESSAGE, f".inference.{kind}"
            else:
                made.type = getattr(field, f"TYPE_{kind.upper()}")
            if name in ONE_OF:
                made.oneof_index = 0
    return file


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_described().SerializeToString())
    found = {name: pool.FindMessageTypeByName(f"inference.{name}") for name in FIELDS}
    return {name: message_factory.GetMessageClass(about) for name, about in found.items()}


CLASSES = _classes()


def message(name: str, /, **fields: Any) -> Any:
    """A new message of this name with these fields."""
    return CLASSES[name](**fields)
