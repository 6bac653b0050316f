"""Threads read together, change alone, and are refused by an owner."""

import copy
import os
import pickle
import threading
import time

import pytest
from dlrmjit_kernels.errors import ConcurrencyError
from dlrmjit_kernels.runtime.access import Access


def started(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, name="other")
    thread.start()
    return thread


def refusal(take):
    """Return the message with which another thread is refused, or None."""
    found = []

    def work():
        try:
            with take():
                found.append(None)
        except ConcurrencyError as error:
            found.append(str(error))

    started(work).join()
    return found[0]


@pytest.fixture
def access():
    return Access("this model")


def test_readers_share(access):
    with access.reading():
        assert refusal(access.reading) is None


@pytest.mark.parametrize(("first", "second"), [("reading", "writing"), ("writing", "reading")])
def test_a_change_and_others_wait_for_each_other(access, first, second):
    events = []

    def work():
        with getattr(access, second)():
            events.append("second")

    with getattr(access, first)():
        thread = started(work)
        time.sleep(0.02)
        events.append("first")
    thread.join()
    assert events == ["first", "second"]


def test_a_thread_may_take_what_it_has(access):
    with access.owning(), access.writing(), access.reading(), access.reading():
        pass
    with access.reading():
        thread = started(lambda: access.writing().__enter__())
        while not access._state.waiting:
            time.sleep(0.001)
        with access.reading():
            pass
    thread.join()


def test_an_owner_refuses_others_by_name(access):
    with access.owning():
        for take in (access.reading, access.writing, access.owning):
            assert refusal(take) == (
                "this model is being trained by thread 'MainThread'; wait until that ends, or "
                "give this thread a copy made before (copy.deepcopy)"
            )
    assert refusal(access.owning) is None


def test_rights_end_with_an_exception(access):
    for take in (access.reading, access.writing, access.owning):
        with pytest.raises(KeyError), take():
            raise KeyError
    assert refusal(access.owning) is None


def test_a_counter_changed_by_many_threads_counts_all(access):
    total = 0

    def work():
        nonlocal total
        for _ in range(200):
            with access.writing():
                before = total
                time.sleep(0)
                total = before + 1

    threads = [started(work) for _ in range(4)]
    for thread in threads:
        thread.join()
    assert total == 800


def test_copies_are_free_of_the_original(access):
    with access.owning():
        for made in (copy.deepcopy(access), pickle.loads(pickle.dumps(access))):
            assert refusal(made.owning) is None


def in_fork(function):
    """Return what a forked process writes: the result of ``function`` as text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, function().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return result


def read_in_child(access):
    try:
        with access.reading():
            return "read"
    except ConcurrencyError as error:
        return str(error)


def test_a_fork_inherits_no_readers(access):
    with access.reading():
        assert in_fork(lambda: refusal(access.owning) or "free") == "free"


def test_a_fork_in_the_middle_of_a_change_is_refused(access):
    ready, end = threading.Event(), threading.Event()

    def change():
        with access.writing():
            ready.set()
            end.wait()

    thread = started(change)
    ready.wait()
    assert "half changed" in in_fork(lambda: read_in_child(access))
    end.set()
    thread.join()
    assert in_fork(lambda: read_in_child(access)) == "read"
