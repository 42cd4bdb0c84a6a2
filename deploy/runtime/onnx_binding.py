"""ONNX Runtime's I/O binding: inputs and outputs lie in the device's memory, and each is copied once.

https://onnxruntime.ai/docs/api/python/api_summary.html#data-on-device
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter

import onnxruntime as ort

from deploy.runtime.base import Array
from deploy.runtime.timing import InferenceTime


class BoundSession:
    """A session whose tensors lie on one device, ``cuda`` or ``cpu``. Any thread may call :meth:`infer`.

    Calls that overlap have bindings of their own; one that is free again keeps its input memory for the next call.
    """

    def __init__(self, session: ort.InferenceSession, outputs: Sequence[str], device: str) -> None:
        self._session, self._outputs, self._device = session, tuple(outputs), device
        self._free = deque[_Binding]()  # its append and pop are atomic

    def infer(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], InferenceTime]:
        """Outputs in new arrays of host memory, and the time of copies and run by the host's clock.

        The clock can tell: ONNX Runtime returns from each when it is done. Raises what ONNX Runtime does.
        """
        binding = self._take()
        result = binding.run(feeds)
        self._free.append(binding)  # not after an error, which leaves it in an unknown state
        return result

    def _take(self) -> _Binding:
        try:
            return self._free.pop()
        except IndexError:  # all are in use
            return _Binding(self._session, self._outputs, self._device)


class _Binding:
    """Inputs and outputs of one query at a time."""

    def __init__(self, session: ort.InferenceSession, outputs: tuple[str, ...], device: str) -> None:
        self._session, self._outputs, self._device = session, outputs, device
        self._binding = session.io_binding()
        self._inputs: dict[str, ort.OrtValue] = {}

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], InferenceTime]:
        start = perf_counter()
        for name, array in feeds.items():
            self._memory(name, array).update_inplace(array)
        uploaded = perf_counter()
        for name in self._outputs:
            # Bound anew: the memory of the last run would be written again, and refused where the shape changes.
            self._binding.bind_output(name, self._device)
        self._session.run_with_iobinding(self._binding)
        computed = perf_counter()
        values: Sequence[Array] = self._binding.copy_outputs_to_cpu()
        done = perf_counter()
        time = InferenceTime(1e3 * (uploaded - start), 1e3 * (computed - uploaded), 1e3 * (done - computed))
        return dict(zip(self._outputs, values)), time

    def _memory(self, name: str, array: Array) -> ort.OrtValue:
        """Memory of the device for ``array``: that of the last call where it has this shape."""
        kept = self._inputs.get(name)
        if kept is None or tuple(kept.shape()) != array.shape:
            kept = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, self._device)
            self._binding.bind_ortvalue_input(name, kept)
            self._inputs[name] = kept
        return kept
