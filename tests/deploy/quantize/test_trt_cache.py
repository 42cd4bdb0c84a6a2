"""TensorRT's calibration cache: what others wrote is read, and what is written reads the same."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.graph.qdq import scale_of
from deploy.quantize.trt_cache import dump, header, parse

# As TensorRT 8.4 writes it: tensors without a name of their own, zeros unpadded, no order.
FOREIGN = b"""TRT-8401-EntropyCalibration2
input: 3caa54fc
(Unnamed Layer* 64) [Shuffle]_output: 0
(Unnamed Layer* 82) [Shuffle]_output: 3c56713e
features/0: relu: 3C92AA10
Concat_12: 2db6c6b
"""


def test_what_tensorrt_wrote():
    amax = parse(FOREIGN, "net.cache")
    assert list(amax) == [line.rsplit(": ", 1)[0] for line in FOREIGN.decode().splitlines()[1:]]
    # NVIDIA's forum, topic 109781: 3c92aa10 is a scale of 0.0179033577.
    assert amax["features/0: relu"] / 127 == pytest.approx(0.0179033577, rel=1e-8)
    assert amax["(Unnamed Layer* 64) [Shuffle]_output"] == 0
    assert amax["Concat_12"] == struct.unpack(">f", bytes.fromhex("02db6c6b"))[0] * 127


def test_lines_of_windows_and_blank_ones():
    assert parse(FOREIGN.replace(b"\n", b"\r\n") + b"\r\n", "it") == parse(FOREIGN, "it")


def test_what_is_written():
    scale = 0.0179033577
    text = dump({"relu46": 127 * float(np.float32(scale)), "a: b": 127.0, "dead": 0.0})
    assert text == b"TRT-100300-EntropyCalibration2\nrelu46: 3c92aa10\na: b: 3f800000\ndead: 0\n"


@pytest.mark.parametrize(
    ("version", "number"), [("7.1.3", 7103), ("8.6.1.6", 8601), ("10.3.0", 100300), ("10.14.1.48", 101401)]
)
def test_the_version_is_counted_as_tensorrt_does(version, number):
    assert header(version) == f"TRT-{number}-EntropyCalibration2"
    assert dump({}, version).decode() == f"TRT-{number}-EntropyCalibration2\n"


@given(st.floats(min_value=1e-20, max_value=8e6))
def test_fp16_scales_survive(amax):
    """Bit for bit: what is stored in an INT8 graph is the same before and after."""
    (read,) = parse(dump({"x": amax}), "it").values()
    assert scale_of(read) == scale_of(amax)
    assert read == pytest.approx(amax, rel=1e-6)


@given(st.integers(min_value=1, max_value=0x7BFF), st.sampled_from([1 - 2e-9, 1.0, 1 + 2e-9]))
def test_fp16_scales_survive_beside_fp16_numbers(bits, factor):
    """There a scale that is rounded to the nearest FP32 number falls onto the next lower FP16 number."""
    amax = 127 * float(np.uint16(bits).view(np.float16)) * factor
    assert scale_of(parse(dump({"x": amax}), "it")["x"]) == scale_of(amax)


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: "\n" not in name), st.just(127.0), max_size=4))
def test_any_name_survives(amax):
    assert parse(dump(amax), "it") == amax


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got '' in line 1; expected a line such as TRT-100300-EntropyCalibration2"),
        (b'{"schema": 2}', "got '{\"schema\": 2}' in line 1"),
        (b"\x08\x96\x01\xff", "got a binary file; expected text"),
        (b"input: 3caa54fc\n", "got 'input: 3caa54fc' in line 1"),
        (b"TRT-8401-EntropyCalibration2\ninput\n", "net.cache, line 2 is no TensorRT calibration cache (got 'input'"),
        (b"TRT-8401-EntropyCalibration2\n: 3caa54fc\n", "got ': 3caa54fc'"),
        (b"TRT-8401-EntropyCalibration2\na: 3caa54fc\nb: 3caa54fg\n", "net.cache, line 3 is no TensorRT"),
        (b"TRT-8401-EntropyCalibration2\na: 03caa54fc\n", "as up to 8 hexadecimal digits"),
        (b"TRT-8401-EntropyCalibration2\na: bcaa54fc\n", "got -0.0207925 as the scale of 'a'"),
        (b"TRT-8401-EntropyCalibration2\na: 7fc00000\n", "got nan as the scale of 'a'"),
        (b"TRT-8401-EntropyCalibration2\na: 7f800000\n", "got inf as the scale of 'a'"),
        (b"TRT-8401-EntropyCalibration2\na: 3caa54fc\na: 3caa54fd\n", "got two scales of 'a'"),
    ],
)
def test_what_is_no_cache(data, message):
    with pytest.raises(InputError) as caught:
        parse(data, "net.cache")
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e300])
def test_ranges_that_are_none(value):
    with pytest.raises(InputError, match="tensor 'x' has no usable range"):
        dump({"x": value})


def test_a_name_that_would_end_its_line():
    with pytest.raises(InputError, match="cannot hold this tensor's name"):
        dump({"a\nb": 1.0})
