# SPDX-License-Identifier: Apache-2.0
"""Streams, events, graphs and stream capture. Order shows in x -> 2 x + by."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from ptxsim.tests.runtime.cuda import DEVICE_TO_DEVICE, DEVICE_TO_HOST, Cuda

INVALID_HANDLE, ILLEGAL_STATE = 400, 401
UNSUPPORTED, INVALIDATED, UNMATCHED, UNJOINED, ISOLATION = 900, 901, 903, 904, 905
IMPLICIT, CAPTURED_EVENT = 906, 907
GLOBAL, THREAD_LOCAL, RELAXED = range(3)


@pytest.fixture
def stream(cuda: Cuda) -> int:
    return cuda.make("StreamCreate")


@pytest.fixture
def free_stream(cuda: Cuda) -> int:
    """One that does not wait for the default stream."""
    return cuda.make("StreamCreateWithFlags", 1)


@pytest.fixture
def x(cuda: Cuda) -> int:
    return cuda.zeros(16)


def end(cuda: Cuda, stream: int) -> tuple[int, int]:
    graph = ctypes.c_void_p()
    return cuda.StreamEndCapture(stream, ctypes.byref(graph)), graph.value or 0


def node_types(cuda: Cuda, graph: int) -> list[int]:
    """0 kernel, 1 copy, 2 memset."""
    n, kind = ctypes.c_size_t(), ctypes.c_int()
    assert cuda.GraphGetNodes(graph, None, ctypes.byref(n)) == 0
    handles = (ctypes.c_void_p * n.value)()
    assert cuda.GraphGetNodes(graph, handles, ctypes.byref(n)) == 0
    types = []
    for handle in handles:
        assert cuda.GraphNodeGetType(handle, ctypes.byref(kind)) == 0
        types.append(kind.value)
    return types


def test_stream(cuda: Cuda, stream: int, x: int) -> None:
    for by in (3, 5):
        assert cuda.launch("increment", x, by, stream=stream) == 0
    assert cuda.StreamSynchronize(stream) == cuda.StreamQuery(stream) == 0
    assert cuda.read(x, 1)[0] == 11
    assert cuda.StreamDestroy(stream) == 0
    assert cuda.StreamDestroy(stream) == cuda.StreamSynchronize(stream) == INVALID_HANDLE


def test_default_stream_of_a_thread(cuda: Cuda, x: int) -> None:
    """What nvcc calls with --default-stream per-thread, and its handle, 2."""
    assert cuda.launch("increment", x, 3, how="LaunchKernel_ptsz") == 0
    assert cuda.launch("increment", x, 5, stream=2) == 0
    assert cuda.StreamSynchronize_ptsz(0) == 0
    assert cuda.read(x, 1)[0] == 11


def test_events(cuda: Cuda, stream: int) -> None:
    first, second, ms = cuda.make("EventCreate"), cuda.make("EventCreate"), ctypes.c_float(-1)
    assert cuda.EventElapsedTime(ctypes.byref(ms), first, second) == INVALID_HANDLE
    assert cuda.EventRecord(first, stream) == cuda.EventRecord(second, stream) == 0
    assert cuda.EventSynchronize(second) == cuda.EventQuery(second) == 0
    assert cuda.EventElapsedTime(ctypes.byref(ms), first, second) == 0
    assert ms.value >= 0
    assert cuda.EventRecord(first, 9) == cuda.EventRecord(9, stream) == INVALID_HANDLE
    assert cuda.StreamWaitEvent(0, second, 0) == 0
    assert cuda.EventDestroy(first) == 0
    assert cuda.EventQuery(first) == INVALID_HANDLE


def test_graph(cuda: Cuda, stream: int, x: int) -> None:
    """What is captured does not run; each launch of the graph runs all of it."""
    assert cuda.StreamBeginCapture(stream, GLOBAL) == 0
    assert cuda.StreamBeginCapture(stream, GLOBAL) == ILLEGAL_STATE
    state = ctypes.c_int()
    assert cuda.StreamIsCapturing(stream, ctypes.byref(state)) == 0
    assert state.value == 1
    for by in (3, 5):
        assert cuda.launch("increment", x, by, stream=stream) == 0
    assert cuda.MemcpyAsync(x + 8, x, 4, DEVICE_TO_DEVICE, stream) == 0
    assert cuda.MemsetAsync(x + 12, 1, 4, stream) == 0
    status, graph = end(cuda, stream)
    assert status == 0
    assert node_types(cuda, graph) == [0, 0, 1, 2]
    assert cuda.read(x, 1)[0] == 0
    run = cuda.make("GraphInstantiate", graph, 0)
    assert cuda.GraphDestroy(graph) == 0
    assert cuda.GraphLaunch(run, stream) == cuda.GraphLaunch(run, 0) == 0
    assert cuda.read(x, 4).tolist() == [(11 * 2 + 3) * 2 + 5, 0, 55, 0x01010101]
    assert cuda.GraphExecDestroy(run) == 0


def test_graph_within_a_graph(cuda: Cuda, stream: int, x: int) -> None:
    cuda.StreamBeginCapture(stream, GLOBAL)
    cuda.launch("increment", x, 3, stream=stream)
    inner = cuda.make("GraphInstantiate", end(cuda, stream)[1], 0)
    cuda.StreamBeginCapture(stream, GLOBAL)
    for _ in range(2):
        assert cuda.GraphLaunch(inner, stream) == 0
    outer = cuda.make("GraphInstantiate", end(cuda, stream)[1], 0)
    assert cuda.GraphLaunch(outer, stream) == 0
    assert cuda.read(x, 1)[0] == 9


def test_graph_of_freed_memory(cuda: Cuda, stream: int) -> None:
    freed = cuda.make("Malloc", 64)
    cuda.StreamBeginCapture(stream, GLOBAL)
    cuda.MemsetAsync(freed, 1, 64, stream)
    run = cuda.make("GraphInstantiate", end(cuda, stream)[1], 0)
    assert cuda.Free(freed) == 0
    cuda.GraphLaunch(run, stream)
    assert cuda.DeviceSynchronize() == 700
    assert "freed cudaMalloc" in cuda.why()


FORBIDDEN: list[tuple[str, Callable[[Cuda, int, int], int], int]] = [
    ("StreamSynchronize", lambda c, s, x: c.StreamSynchronize(s), UNSUPPORTED),
    ("StreamQuery", lambda c, s, x: c.StreamQuery(s), UNSUPPORTED),
    ("DeviceSynchronize", lambda c, s, x: c.DeviceSynchronize(), UNSUPPORTED),
    ("Malloc", lambda c, s, x: c.Malloc(ctypes.byref(ctypes.c_void_p()), 4), UNSUPPORTED),
    ("Free", lambda c, s, x: c.Free(x), UNSUPPORTED),
    ("default stream", lambda c, s, x: c.launch("increment", x), IMPLICIT),
    ("Memcpy", lambda c, s, x: c.Memcpy(np.zeros(1).ctypes.data, x, 4, DEVICE_TO_HOST), IMPLICIT),
    ("MallocAsync", lambda c, s, x: c.MallocAsync(ctypes.byref(ctypes.c_void_p()), 4, s), 801),
]


@pytest.mark.parametrize(("what", "forbidden", "status"), FORBIDDEN, ids=[f[0] for f in FORBIDDEN])
def test_forbidden_while_capturing(
    cuda: Cuda, stream: int, x: int, what: str,
    forbidden: Callable[[Cuda, int, int], int], status: int,
) -> None:  # fmt: skip
    """It ends the capture: what follows fails, and so does its end, without a graph."""
    cuda.StreamBeginCapture(stream, GLOBAL)
    assert cuda.launch("increment", x, stream=stream) == 0
    assert forbidden(cuda, stream, x) == status
    assert cuda.launch("increment", x, stream=stream) == INVALIDATED
    assert end(cuda, stream) == (INVALIDATED, 0)
    cuda.GetLastError()
    assert cuda.launch("increment", x, 4, stream=stream) == 0
    assert cuda.read(x, 1)[0] == 4


def test_event_of_a_capture(cuda: Cuda, stream: int) -> None:
    event = cuda.make("EventCreate")
    cuda.StreamBeginCapture(stream, GLOBAL)
    assert cuda.EventRecord(event, stream) == 0
    assert cuda.EventSynchronize(event) == CAPTURED_EVENT
    assert end(cuda, stream)[0] == INVALIDATED


def test_modes(cuda: Cuda, free_stream: int, x: int) -> None:
    """Relaxed captures forbid nothing; thread-local ones what this thread does."""
    p = ctypes.byref(ctypes.c_void_p())
    cuda.StreamBeginCapture(free_stream, RELAXED)
    assert cuda.Malloc(p, 4) == cuda.launch("increment", x) == 0
    assert cuda.launch("increment", x, stream=free_stream) == 0
    assert end(cuda, free_stream)[0] == 0
    cuda.StreamBeginCapture(free_stream, THREAD_LOCAL)
    assert cuda.Malloc(p, 4) == UNSUPPORTED
    assert end(cuda, free_stream)[0] == INVALIDATED
    assert cuda.StreamBeginCapture(0, GLOBAL) == UNSUPPORTED
    assert end(cuda, free_stream)[0] == ILLEGAL_STATE


def fork(cuda: Cuda, stream: int, other: int, x: int) -> None:
    """Work of both streams, the other's behind the first launch of this one."""
    event = cuda.make("EventCreate")
    cuda.StreamBeginCapture(stream, GLOBAL)
    assert cuda.launch("increment", x, 3, stream=stream) == 0
    assert cuda.EventRecord(event, stream) == cuda.StreamWaitEvent(other, event, 0) == 0
    assert cuda.launch("increment", x, 5, stream=other) == 0


def test_fork_and_join(cuda: Cuda, stream: int, free_stream: int, x: int) -> None:
    fork(cuda, stream, free_stream, x)
    event = cuda.make("EventCreate")
    assert cuda.EventRecord(event, free_stream) == cuda.StreamWaitEvent(stream, event, 0) == 0
    status, graph = end(cuda, stream)
    assert (status, node_types(cuda, graph)) == (0, [0, 0])
    assert cuda.GraphLaunch(cuda.make("GraphInstantiate", graph, 0), 0) == 0
    assert cuda.read(x, 1)[0] == 11


def test_fork_without_join(cuda: Cuda, stream: int, free_stream: int, x: int) -> None:
    fork(cuda, stream, free_stream, x)
    assert end(cuda, stream)[0] == UNJOINED


def test_capture_ended_elsewhere(cuda: Cuda, stream: int, free_stream: int, x: int) -> None:
    fork(cuda, stream, free_stream, x)
    assert end(cuda, free_stream)[0] == UNMATCHED
    assert end(cuda, stream)[0] == INVALIDATED


def test_events_of_outside(cuda: Cuda, stream: int) -> None:
    """A capture neither records on the default stream nor waits for what came before it."""
    event = cuda.make("EventCreate")
    cuda.StreamBeginCapture(stream, GLOBAL)
    assert cuda.EventRecord(event, 0) == IMPLICIT
    assert end(cuda, stream)[0] == INVALIDATED
    assert cuda.EventRecord(event, 0) == 0
    cuda.StreamBeginCapture(stream, GLOBAL)
    assert cuda.StreamWaitEvent(stream, event, 0) == ISOLATION
    assert end(cuda, stream)[0] == INVALIDATED
