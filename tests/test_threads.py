"""Calls that are split over threads: from many threads at once, after a fork, and while the interpreter ends."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest

import fastk
from fastk import mitchell

SIDE = 192  # large enough for a product to be split


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back afterwards."""
    before = fastk.config()["threads"]
    yield fastk.set_num_threads
    fastk.set_num_threads(before)


def operand(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SIDE, SIDE), np.float32)


def test_the_operand_is_split():
    assert SIDE**3 // mitchell._PIECE > 2


def test_from_many_threads_at_once(threads):
    a = operand()
    expected = {k: fastk.mitchell_matmul(a[:, :k], a[:k]) for k in (64, 128, SIDE)}
    failures: list[object] = []
    before = sys.getswitchinterval()

    def work(seed: int) -> None:
        for i in range(25):
            for k, wanted in expected.items():
                threads(2 + (seed + 7 * i) % 9)
                try:
                    if not np.array_equal(fastk.mitchell_matmul(a[:, :k], a[:k]), wanted):
                        failures.append(k)
                except RuntimeError as error:
                    failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures


def test_an_error_in_a_piece_is_raised(threads):
    from fastk._threads import parallel

    done = []

    def piece(i: int) -> None:
        if i == 1:
            raise ValueError("piece 1")
        done.append(i)

    with pytest.raises(ValueError, match="piece 1"):
        parallel(piece, 3)
    assert sorted(done) == [0, 2]


def test_one_ufunc_for_all_threads():
    made, barrier = [], threading.Barrier(4)

    def make() -> None:
        barrier.wait()
        made.append(fastk.mitchell_ufunc("mul", 0.01234))

    workers = [threading.Thread(target=make) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({id(ufunc) for ufunc in made}) == 1


FORK = """
import os, sys
import numpy as np, fastk
fastk.set_num_threads(3)
a = np.ones((192, 192), np.float32)
fastk.mitchell_matmul(a, a)
child = os.fork()
if child == 0:
    os._exit(int(fastk.mitchell_matmul(a, a)[0, 0]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

ENDING = """
import atexit, threading, time
import numpy as np, fastk
fastk.set_num_threads(3)
a = np.ones((192, 192), np.float32)
fastk.mitchell_matmul(a, a)
def late():
    threading.main_thread().join()
    time.sleep(0.2)
    print("thread", fastk.mitchell_matmul(a, a)[0, 0])
atexit.register(lambda: print("exit", fastk.mitchell_matmul(a, a)[0, 0]))
threading.Thread(target=late).start()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_a_fork(run_python, backend):
    # Python 3.12 warns of forks beside threads, which is what this is about.
    done = run_python("-W", "ignore::DeprecationWarning", "-c", FORK, FASTK_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("192\n", "")


def test_while_the_interpreter_ends(run_python, backend):
    done = run_python("-c", ENDING, FASTK_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("thread 192.0\nexit 192.0\n", "")


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (4, 3), (2, 1, 3), (3, 4, 2), (1, 1, 1)])
def test_stacks_of_several_axes(shape):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((*shape, 5, 7)), rng.standard_normal((*shape[1:], 7, 4))
    b = np.swapaxes(np.ascontiguousarray(np.swapaxes(b, -1, -2)), -1, -2)
    found = fastk.mitchell_matmul(a, b)
    wide = np.broadcast_to(b, (*shape, 7, 4))
    for index in np.ndindex(*shape):
        np.testing.assert_array_equal(found[index], fastk.mitchell_matmul(a[index], wide[index]))


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64])
def test_a_result_beside_its_operands(dtype):
    n = 3000
    numbers = np.random.default_rng(2).integers(1, 100, 4 * n).astype(dtype)
    expected = fastk.mitchell_mul(numbers[:n].copy(), numbers[n : 2 * n].copy())
    flat = numbers.copy()
    fastk.mitchell_mul(flat[:n], flat[n : 2 * n], out=flat[2 * n : 3 * n])
    np.testing.assert_array_equal(flat[2 * n : 3 * n], expected)
    np.testing.assert_array_equal(np.delete(flat, slice(2 * n, 3 * n)), np.delete(numbers, slice(2 * n, 3 * n)))
    columns = np.ascontiguousarray(numbers.reshape(4, n).T)
    fastk.mitchell_mul(columns[:, 0], columns[:, 1], out=columns[:, 3])
    np.testing.assert_array_equal(columns[:, 3], expected)
    np.testing.assert_array_equal(columns[:, :3].T.ravel(), numbers[: 3 * n])
