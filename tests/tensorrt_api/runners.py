"""Runners of a tiny engine on the simulated GPU, and requests whose answers are known."""

import itertools

import numpy as np
from tensorrt_api.cuda import SimulatedCuda
from tensorrt_api.graphs import affine
from tensorrt_api.simulator import plan_of, simulate
from tensorrt_api.tables import APIS

from deploy.runtime.trt import TrtRunner

OLDEST = next(api for api in APIS if api.version.startswith("10.3"))
NEWEST = next(api for api in APIS if api.version.startswith("11.4"))
RTX = next(api for api in APIS if api.flavour == "tensorrt_rtx")
THREE = [OLDEST, NEWEST, RTX]
_counter = itertools.count()


def runner(api=NEWEST, profiles=((1, 4, 8),), cuda=None, cost=None, **options):
    """``logits`` = 2 · ``input`` + 1, float32[batch, 4]."""
    return TrtRunner(plan_of(api, affine(), profiles), simulate(api, cost), cuda or SimulatedCuda(), **options)


def rows(count):
    """Rows that no other request has."""
    return (np.arange(4 * count, dtype=np.float32) + 1000 * next(_counter)).reshape(count, 4)


def ask(opened, count):
    """Raise AssertionError unless a request of new rows is answered rightly."""
    batch = rows(count)
    np.testing.assert_array_equal(opened.infer({"input": batch})["logits"], 2 * batch + 1)
