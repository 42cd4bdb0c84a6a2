"""TensorRT's own classes, by name.

They are ``Any``: two packages (``tensorrt``, ``tensorrt_rtx``) and many versions share one code path, and no one
version's stubs fit the others. The names still matter: ``tests/deploy/test_tensorrt_api.py`` follows them and checks
every member used against the real API of every supported version.
"""

from __future__ import annotations

from typing import Any
from typing import TypeAlias as _Alias

TensorRt: _Alias = Any  # the module itself
Builder: _Alias = Any
EngineInspector: _Alias = Any
IBuilderConfig: _Alias = Any
ICudaEngine: _Alias = Any
IExecutionContext: _Alias = Any
ILogger: _Alias = Any
INetworkDefinition: _Alias = Any
IOptimizationProfile: _Alias = Any
IProfiler: _Alias = Any
IProgressMonitor: _Alias = Any
IRuntimeCache: _Alias = Any
IRuntimeConfig: _Alias = Any
ITensor: _Alias = Any
ITimingCache: _Alias = Any
OnnxParser: _Alias = Any
OnnxParserRefitter: _Alias = Any
ParserError: _Alias = Any
Refitter: _Alias = Any
Runtime: _Alias = Any
