"""TensorRT's calibration cache: the ranges that implicit quantization reads, as ``trtexec --calib=FILE`` takes it.

A first line ``TRT-<version>-<algorithm>``, then ``tensor: scale`` a line, the scale being max |x| / 127 as the bits of
an FP32 number in hexadecimal, most significant first (NVIDIA/TensorRT ``samples/sampleINT8/README.md``, "Calibration
file"; which end comes first is told in NVIDIA's forum, topic 109781). TensorRT pads no zeros: a tensor that was zero on
every image is ``tensor: 0``.

Implicit quantization is what DLA takes in TensorRT 10.7 and older, with the header of ``EntropyCalibration2`` (API
reference, "IInt8EntropyCalibrator2": the calibrator DLA requires; NVIDIA/TensorRT issue 2222). A layer runs in INT8
only where every tensor at its borders has a scale; TensorRT warns of others: "Missing scale and zero-point" (issue
3131). It was deprecated in TensorRT 10.1 and is gone in 11.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import numpy as np

from deploy.errors import InputError
from deploy.graph.qdq import INT8_MAX

# The newest TensorRT of JetPack 6, whose DLA takes nothing else.
VERSION = "10.3.0"
ALGORITHM = "EntropyCalibration2"
_HEADER = re.compile(r"TRT-\d+-\w+")
_SCALE = re.compile(r"[0-9a-fA-F]{1,8}")


def dump(amax: Mapping[str, float], version: str = VERSION) -> bytes:
    """The file that holds ``amax``, for TensorRT ``version`` alone: another calibrates again.

    Scales are rounded up to FP32. Up, because :func:`~deploy.graph.qdq.scale_of` rounds up to FP16: it finds the same
    FP16 scale for what is read back.

    Args:
        amax: tensor → the absolute value that INT8's 127 stands for, 0 where it is always zero.
        version: of the TensorRT that shall read it, such as ``10.3.0``.

    Raises:
        InputError: a range is negative, not finite or beyond FP32; a name would end its line.
    """
    lines = [header(version), *(f"{_named(tensor)}: {_bits(tensor, value):x}" for tensor, value in amax.items())]
    return "".join(f"{line}\n" for line in lines).encode()


def parse(data: bytes, where: str) -> dict[str, float]:
    """Tensor → max |x| that 127 stands for, of the cache of any version and algorithm.

    Args:
        data: what the file holds.
        where: the file's name, for the message.

    Raises:
        InputError: not such a file, or a scale is none: negative, infinite, NaN, no hexadecimal number.
    """
    first, *lines = _text(data, where).split("\n")
    if not _HEADER.fullmatch(first.strip()):
        raise _unreadable(where, f"'{first[:40]}' in line 1", f"a line such as {header(VERSION)}")
    amax: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        if line.strip():
            tensor, value = _entry(line, f"{where}, line {number}")
            if amax.setdefault(tensor, value) != value:
                raise _unreadable(where, f"two scales of '{tensor}'", "one")
    return amax


def algorithm(data: bytes) -> str:
    """The first line of a file that :func:`parse` reads: what made it."""
    return data.split(b"\n", 1)[0].decode().strip()


def header(version: str) -> str:
    """The first line of a cache for a TensorRT version.

    It holds ``NV_TENSORRT_VERSION`` (NvInferVersion.h), which counts major versions in ten thousands since TensorRT 10.
    """
    major, minor, patch = (int(part) for part in f"{version}.0.0".split(".")[:3])
    return f"TRT-{major * (10000 if major >= 10 else 1000) + minor * 100 + patch}-{ALGORITHM}"


def _named(tensor: str) -> str:
    if not tensor or "\n" in tensor:
        raise InputError("a calibration cache cannot hold this tensor's name", got=repr(tensor), expected="one line")
    return tensor


def _bits(tensor: str, amax: float) -> int:
    exact = amax / INT8_MAX
    with np.errstate(over="ignore"):
        nearest = np.float32(exact)
        scale = np.nextafter(nearest, np.float32(np.inf)) if float(nearest) < exact else nearest
    if not 0 <= scale < np.inf:
        raise InputError(f"tensor '{tensor}' has no usable range", got=amax, expected="a finite max |x|")
    return int(scale.view(np.uint32))


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _unreadable(where, "a binary file", "text") from error


def _entry(line: str, where: str) -> tuple[str, float]:
    # The name may hold ": " itself.
    tensor, colon, scale = line.rpartition(":")
    if not colon or not tensor or not _SCALE.fullmatch(scale.strip()):
        raise _unreadable(where, f"'{line[:80]}'", "'tensor: scale', the scale as up to 8 hexadecimal digits")
    (value,) = struct.unpack(">f", bytes.fromhex(scale.strip().zfill(8)))
    if not 0 <= value < np.inf:
        raise _unreadable(where, f"{value:g} as the scale of '{tensor}'", "a finite scale, 0 or more")
    return tensor, value * INT8_MAX


def _unreadable(where: str, got: str, expected: str) -> InputError:
    fix = "Give a calibration cache as TensorRT writes it, or the name of a new file."
    return InputError(f"{where} is no TensorRT calibration cache", got=got, expected=expected, fix=fix)
