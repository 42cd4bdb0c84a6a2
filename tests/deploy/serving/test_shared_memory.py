"""Tensors in POSIX shared memory, with Triton's own clients and helpers, over HTTP and gRPC."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from serving_live import BothLive
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

from deploy.errors import InputError
from deploy.serving.errors import AlreadyRegistered, TooLarge, UnknownRegion, Unsupported
from deploy.serving.shared_memory import Access, Placement, Regions

ROWS = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
SIZE = ROWS.nbytes


@pytest.fixture(scope="module")
def live():
    server = BothLive(regions=Regions(), dtypes=["int64", "object"])
    yield server
    server.close()


@pytest.fixture(params=["http", "grpc"])
def protocol(request, live):
    """The client's module, a client, and how it spells the status for what a client did wrong."""
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    with module.InferenceServerClient(getattr(live, request.param)) as client:
        yield module, client
        client.unregister_system_shared_memory()


@pytest.fixture
def segment():
    """Four times ``ROWS`` in size; the first holds them."""
    name = f"/deploy-test-{secrets.token_hex(8)}"
    handle = shm.create_shared_memory_region("r", name, 4 * SIZE)
    shm.set_shared_memory_region(handle, [ROWS])
    yield name, handle
    shm.destroy_shared_memory_region(handle)


def asked(module, *, source=("r", SIZE, 0), target=None, shape=ROWS.shape):
    given = module.InferInput("x", list(shape), "FP32")
    given.set_shared_memory(*source)
    output = module.InferRequestedOutput("y")
    if target is not None:
        output.set_shared_memory(*target)
    return {"inputs": [given], "outputs": [output]}


def test_inputs_and_outputs_lie_in_regions(protocol, segment):
    module, client = protocol
    name, handle = segment
    client.register_system_shared_memory("r", name, 4 * SIZE)
    result = client.infer("echo", **asked(module, target=("r", SIZE, 2 * SIZE)))
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 3), offset=2 * SIZE), ROWS * 2)
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 3), offset=SIZE), 0 * ROWS)
    output = result.get_output("y")
    fields = output if isinstance(output, dict) else {"name": output.name, "shape": list(output.shape)}
    assert (fields["name"], fields["shape"]) == ("y", [2, 3])
    assert "data" not in fields


def test_an_input_alone_and_an_output_alone(protocol, segment):
    module, client = protocol
    name, handle = segment
    client.register_system_shared_memory("r", name, 4 * SIZE)
    np.testing.assert_array_equal(client.infer("echo", **asked(module)).as_numpy("y"), ROWS * 2)
    given = module.InferInput("x", [2, 3], "FP32")
    given.set_data_from_numpy(ROWS + 1)
    client.infer("echo", [given], outputs=asked(module, target=("r", SIZE + 8, SIZE))["outputs"])
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 3), offset=SIZE), (ROWS + 1) * 2)


def test_one_output_in_a_region_and_one_in_the_reply(protocol, segment):
    module, client = protocol
    name, handle = segment
    client.register_system_shared_memory("r", name, 4 * SIZE)
    image = module.InferInput("input", [1, 3, 8, 8], "FP32")
    image.set_data_from_numpy(np.ones((1, 3, 8, 8), np.float32))
    outputs = [module.InferRequestedOutput(one) for one in ("mean", "max")]
    outputs[0].set_shared_memory("r", 12, 0)
    result = client.infer("colours", [image], outputs=outputs)
    assert result.as_numpy("max").tolist() == [[1, 1, 1]]
    assert shm.get_contents_as_numpy(handle, np.float32, (3,)).tolist() == [1, 1, 1]


def test_texts_lie_in_a_region(protocol, segment):
    module, client = protocol
    name, handle = segment
    texts = np.array([[b"a", b"", b"bcd"]], object)
    shm.set_shared_memory_region(handle, [serialize_byte_tensor(texts)])
    client.register_system_shared_memory("r", name, 4 * SIZE)
    given = module.InferInput("x", [1, 3], "BYTES")
    given.set_shared_memory("r", 4 * 3 + 4)
    output = module.InferRequestedOutput("y")
    output.set_shared_memory("r", 40, 40)
    client.infer("same_object", [given], outputs=[output])
    found = shm.get_contents_as_numpy(handle, np.object_, [1, 3], offset=40)
    assert found.tolist() == texts.tolist()


def test_regions_are_told_and_forgotten(protocol, segment):
    _, client = protocol
    name, _ = segment
    assert "system_shared_memory" in str(client.get_server_metadata())
    client.register_system_shared_memory("r", name, SIZE, offset=8)
    client.register_system_shared_memory("s", name.removeprefix("/"), SIZE)
    told = client.get_system_shared_memory_status("r")
    (row,) = (
        told
        if isinstance(told, list)
        else [{field.name: value for field, value in one.ListFields()} for one in told.regions.values()]
    )
    assert row == {"name": "r", "key": name, "offset": 8, "byte_size": SIZE}
    status = client.get_system_shared_memory_status()
    assert len(status if isinstance(status, list) else status.regions) == 2
    with pytest.raises(InferenceServerException, match="shared memory region 'r' already in manager"):
        client.register_system_shared_memory("r", name, SIZE, offset=8)
    client.unregister_system_shared_memory("r")
    client.unregister_system_shared_memory("r")  # an unknown one is no error, as in Triton
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'r'"):
        client.get_system_shared_memory_status("r")
    client.unregister_system_shared_memory()
    status = client.get_system_shared_memory_status()
    assert len(status if isinstance(status, list) else status.regions) == 0


def test_a_region_stays_when_its_segment_is_unlinked(protocol):
    module, client = protocol
    name = f"/deploy-test-{secrets.token_hex(8)}"
    handle = shm.create_shared_memory_region("r", name, SIZE)
    shm.set_shared_memory_region(handle, [ROWS])
    client.register_system_shared_memory("r", name, SIZE)
    shm.destroy_shared_memory_region(handle)
    np.testing.assert_array_equal(client.infer("echo", **asked(module)).as_numpy("y"), ROWS * 2)


INVALID = {
    "input beyond": ({"source": ("r", SIZE, 3 * SIZE + 4)}, "Invalid offset"),
    "input small": ({"source": ("r", 8, 0)}, "another number of bytes"),
    "input large": ({"source": ("r", 2 * SIZE, 0)}, "another number of bytes"),
    "huge offset": ({"source": ("r", SIZE, 1 << 62)}, "Invalid offset"),
    "output beyond": ({"target": ("r", SIZE, 4 * SIZE)}, "Invalid offset"),
    "output small": ({"target": ("r", SIZE - 1, 0)}, "too small"),
}


@pytest.mark.parametrize("case", INVALID)
def test_bytes_that_are_not_there_are_refused(protocol, segment, case):
    module, client = protocol
    name, handle = segment
    client.register_system_shared_memory("r", name, 4 * SIZE)
    places, words = INVALID[case]
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer("echo", **asked(module, **places))
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 3)), ROWS)


def test_an_unknown_region_is_not_found(protocol):
    module, client = protocol
    for places in ({"source": ("q", SIZE, 0)}, {"source": ("q", SIZE, 0), "target": ("q", SIZE, 0)}):
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'q'") as caught:
            client.infer("echo", **asked(module, **places))
        assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


def test_classes_do_not_go_to_a_region(live, segment):
    name, _ = segment
    url = f"http://{live.http}"
    assert httpx.post(f"{url}/v2/systemsharedmemory/region/c/register", json={"key": name, "byte_size": 8}).is_success
    place = {"shared_memory_region": "c", "shared_memory_byte_size": 8, "classification": 1}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    asking = {"inputs": [tensor], "outputs": [{"name": "y", "parameters": place}]}
    reply = httpx.post(f"{url}/v2/models/echo/infer", json=asking)
    assert (reply.status_code, "can't set both" in reply.text) == (400, True)
    assert httpx.post(f"{url}/v2/systemsharedmemory/region/c/unregister").is_success


def test_a_client_that_shrinks_its_segment_is_told_and_the_server_lives(protocol, segment):
    module, client = protocol
    name, _ = segment
    client.register_system_shared_memory("r", name, 4 * SIZE)
    os.truncate(f"/dev/shm{name}", SIZE)
    for places in ({"source": ("r", SIZE, SIZE)}, {"target": ("r", SIZE, SIZE)}):
        with pytest.raises(InferenceServerException, match="smaller than when it was registered"):
            client.infer("echo", **asked(module, **places))
    assert Path(f"/dev/shm{name}").stat().st_size == SIZE
    os.truncate(f"/dev/shm{name}", 4 * SIZE)
    np.testing.assert_array_equal(client.infer("echo", **asked(module)).as_numpy("y"), ROWS * 2)


@pytest.mark.parametrize(
    "key",
    ["", "/", ".", "..", "/..", "/../../etc/passwd", "a/b", "//a", "a\0b", "/deploy-test-not-there", "x" * 300],
)
def test_only_names_of_shared_memory_are_opened(key):
    regions = Regions()
    with pytest.raises(InputError, match="no name of POSIX shared memory|Unable to open shared memory region"):
        regions.register("r", key, 0, 1)
    assert regions.status() == []


@pytest.fixture
def odd():
    """A path in /dev/shm for what is no segment."""
    path = Path(f"/dev/shm/deploy-test-{secrets.token_hex(8)}")
    yield path
    (path.rmdir if path.is_dir() and not path.is_symlink() else path.unlink)()


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/hostname")], ids=["folder", "pipe", "link"]
)
def test_what_is_no_memory_is_not_registered(odd, make):
    make(odd)
    with pytest.raises(InputError, match="shared memory region"):
        Regions().register("r", odd.name, 0, 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (-1, 4), (0, -4), (0, 4 * SIZE + 1), (4 * SIZE, 1), (1 << 70, 1)])
def test_a_region_is_within_its_segment(segment, offset, size):
    with pytest.raises(InputError, match="Invalid shared memory region"):
        Regions().register("r", segment[0], offset, size)


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_regions_are_counted(segment):
    regions = Regions()
    for index in range(256):
        regions.register(str(index), segment[0], 0, 1)
    with pytest.raises(InputError, match="256 regions at most"):
        regions.register("more", segment[0], 0, 1)
    with pytest.raises(AlreadyRegistered):
        regions.register("0", segment[0], 0, 1)
    files = open_files()
    regions.unregister()
    assert open_files() == files - 256


def test_a_request_keeps_the_memory_that_it_was_given(segment):
    regions = Regions()
    regions.register("r", segment[0], 0, SIZE)
    memory = regions.memory(Placement("r", 0, SIZE))
    regions.unregister("r")
    assert memory.read() == ROWS.tobytes()
    with pytest.raises(UnknownRegion):
        regions.memory(Placement("r", 0, SIZE))


def test_a_request_reads_no_more_than_a_body_holds(segment):
    regions = Regions()
    regions.register("r", segment[0], 0, 4 * SIZE)
    access = Access(regions, left=2 * SIZE)
    access.read(Placement("r", 0, SIZE))
    with pytest.raises(TooLarge):
        access.read(Placement("r", 0, SIZE + 1))


def test_where_it_is_off_each_use_says_so():
    live = BothLive()
    try:
        for path in ("status", "region/r/status"):
            assert httpx.get(f"http://{live.http}/v2/systemsharedmemory/{path}").status_code == 501
        reply = httpx.post(f"http://{live.http}/v2/systemsharedmemory/region/r/register", json={})
        assert (reply.status_code, "--shared-memory" in reply.text) == (501, True)
        with tritonclient.grpc.InferenceServerClient(live.grpc) as client:
            with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
                client.register_system_shared_memory("r", "/r", 1)
            with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
                client.infer("echo", **asked(tritonclient.grpc))
    finally:
        live.close()
    with pytest.raises(Unsupported):
        Access().memory(Placement("r", 0, 1))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"[]", "no 'key' field"),
        (b'{"key": "/a"}', "no 'byte_size' field"),
        (b'{"key": 1, "byte_size": 1}', "a text as key"),
        (b'{"key": "/a", "byte_size": 1.5}', "a text as key"),
        (b'{"key": "/a", "byte_size": true}', "a text as key"),
    ],
)
def test_a_malformed_registration_is_told_so(live, body, words):
    reply = httpx.post(f"http://{live.http}/v2/systemsharedmemory/region/r/register", content=body)
    assert reply.status_code == 400
    assert words in reply.json()["error"]
