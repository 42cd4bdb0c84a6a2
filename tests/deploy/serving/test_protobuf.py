"""Our messages beside those that NVIDIA's client was generated from."""

from __future__ import annotations

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from deploy.serving.protobuf import _Parser, message, pool, services

THEIRS = service_pb2.DESCRIPTOR.pool
OURS = pool().FindFileByName("inference.proto")


def all_of(messages):
    for one in messages:
        yield one
        yield from all_of(one.nested_types)


MESSAGES = list(all_of(OURS.message_types_by_name.values()))


def facts(field):
    """What decides the bytes on the wire, and the names in Python and JSON."""
    kind = field.message_type or field.enum_type
    choice = field.containing_oneof
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        field.has_presence,
        kind and kind.full_name,
        choice and choice.name,
        field.json_name,
    )


@pytest.mark.parametrize("ours", MESSAGES, ids=lambda one: one.full_name)
def test_a_message_is_as_the_client_has_it(ours):
    theirs = THEIRS.FindMessageTypeByName(ours.full_name)
    assert ours.GetOptions().map_entry == theirs.GetOptions().map_entry
    for name, field in ours.fields_by_name.items():
        assert facts(field) == facts(theirs.fields_by_name[name]), name


# Messages that hold fewer fields than the client's, which then sees them unset.
PARTS = {"ModelConfig", "ModelInput", "ModelOutput", "ModelInstanceGroup", "ModelDynamicBatching", "ModelQueuePolicy"}
LACKING = {"ModelStatistics": {"memory_usage", "response_stats"}}


@pytest.mark.parametrize("ours", MESSAGES, ids=lambda one: one.full_name)
def test_only_the_model_configuration_and_statistics_are_in_part(ours):
    lacking = set(THEIRS.FindMessageTypeByName(ours.full_name).fields_by_name) - set(ours.fields_by_name)
    assert ours.name in PARTS or lacking == LACKING.get(ours.name, set())


def test_every_type_of_data_is_there():
    assert OURS.enum_types_by_name["DataType"].values_by_name.keys() == model_config_pb2.DataType.keys()
    for name, value in OURS.enum_types_by_name["DataType"].values_by_name.items():
        assert model_config_pb2.DataType.Value(name) == value.number


def test_the_service_has_the_clients_methods_but_for_the_extensions_that_are_not_here():
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    (ours,) = (one for one in services() if one.full_name == "inference.GRPCInferenceService")
    for method in ours.methods:
        other = theirs[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)
    cuda = {f"CudaSharedMemory{what}" for what in ("Status", "Register", "Unregister")}
    assert set(theirs) - set(ours.methods_by_name) == {*cuda, "TraceSetting", "LogSettings"}


def test_both_read_what_the_other_wrote():
    ours = message("inference.ModelInferRequest")(model_name="m", raw_input_contents=[b"12"])
    ours.inputs.add(name="x", datatype="FP32", shape=[-1, 2]).contents.fp32_contents.extend([1, 2])
    ours.parameters["priority"].int64_param = -3
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert (theirs.model_name, theirs.parameters["priority"].int64_param) == ("m", -3)
    again = message("inference.ModelInferRequest").FromString(theirs.SerializeToString())
    assert again == ours


def test_health_has_the_published_numbers():
    request = message("grpc.health.v1.HealthCheckRequest")(service="s")
    assert request.SerializeToString() == b"\x0a\x01s"
    reply = message("grpc.health.v1.HealthCheckResponse")(status="SERVING")
    assert reply.SerializeToString() == b"\x08\x01"
    (health,) = (one for one in services() if one.full_name == "grpc.health.v1.Health")
    assert [method.name for method in health.methods] == ["Check"]


@pytest.mark.parametrize(
    "text", ["message A { map<int32, string> a = 1; }", 'syntax = "proto2";', "message A { int32 a }"]
)
def test_what_the_reader_does_not_know_is_an_error(text):
    with pytest.raises(ValueError, match=r"bad\.proto: got"):
        _Parser("bad.proto", text)
