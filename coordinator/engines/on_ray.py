"""Shards and experts on a Ray cluster: tasks that name a job, on nodes that compute such bits.

Ray exports `OMP_NUM_THREADS=1`, so a task pins the plan's threads itself. It pickles arguments and
answers, so these are ids, strings and numbers. It listens on every interface and sends usage
statistics: the statistics are off here, every call wants the cluster's token, and the ports belong
behind a firewall (docs/operations.md).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from coordinator import jobs
from coordinator.context import Coordinator
from coordinator.engines import tasks
from coordinator.engines.parts import Parts
from coordinator.jobs import Job
from coordinator.shards import differences
from kit.errors import KitError

_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
_WAIT_S = 0.5


class OnRay:
    """A cluster that somebody started and this machine belongs to (an `Engine`)."""

    name = "ray"

    def __init__(self, address: str) -> None:
        self._address = address

    def make(self, coordinator: Coordinator, parts: Parts) -> None:
        """Keep every fit node busy with the jobs that nobody holds."""
        with _joined(self._address) as ray:
            places = _Places(ray, _fit_nodes(ray, coordinator, parts))
            _Run(ray, coordinator, parts, places).to_the_end()


@contextmanager
def _joined(address: str) -> Iterator[Any]:
    if find_spec("ray") is None:
        raise KitError("Ray is not installed", hint="install this kit with the extra `ray`")
    os.environ.update(_ENVIRONMENT)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise KitError(
            f"the Ray cluster at `{address}` cannot be joined: {_words(error)}",
            hint="start it with a token on this machine too: see docs/operations.md",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _fit_nodes(ray: Any, coordinator: Coordinator, parts: Parts) -> dict[str, int]:
    """Return node -> how many parts it makes at once; others are refused, on record.

    Raises:
        KitError: there is none.
    """
    threads = parts.setting.threads
    found = {}
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        name, processors = node["NodeID"], int(node["Resources"].get("CPU", 0))
        if processors < threads:
            why = [f"it offers {processors} processors, and the plan wants {threads} threads"]
        else:
            here = _task(ray, tasks.setting_here, name, processors=threads).remote(threads)
            why = differences(parts.setting, _answer(ray, here))
        if why:
            with coordinator.write() as tx:
                jobs.record(tx, parts.build, "refused", node=name, reason="; ".join(why))
        else:
            found[name] = processors // threads
    if not found:
        raise KitError(
            "no node of the Ray cluster computes the bits that the plan names",
            hint=f"`coordinator builds show {parts.build}` says what each of them has",
        )
    return found


class _Places:
    """Which nodes have room for another task."""

    def __init__(self, ray: Any, free: dict[str, int]) -> None:
        self._ray, self._free = ray, free

    def take(self) -> str | None:
        """Return a node with room, the emptiest first."""
        node = max(self._free, key=lambda name: self._free[name])
        if not self._free[node]:
            return None
        self._free[node] -= 1
        return node

    def give_back(self, node: str) -> None:
        self._free[node] += 1


class _Run:
    """One driver: leases jobs, hands them to nodes, and books what they say."""

    def __init__(self, ray: Any, coordinator: Coordinator, parts: Parts, places: _Places) -> None:
        self._ray, self._coordinator, self._parts, self._places = ray, coordinator, parts, places
        self._running: dict[Any, tuple[Job, str]] = {}

    def to_the_end(self) -> None:
        """Return when every part is kept, whoever made it."""
        build, kind = self._parts.build, self._parts.kind
        try:
            while True:
                self._start()
                self._book()
                finished, total = jobs.done(self._coordinator, build, kind)
                self._parts.report(finished, total)
                if finished == total:
                    return
        finally:
            self._stop()

    def _start(self) -> None:
        while (node := self._places.take()) is not None:
            job = jobs.lease(
                self._coordinator, self._parts.build, self._parts.kind, self._parts.owner
            )
            if job is None:
                self._places.give_back(node)
                return
            threads = self._parts.setting.threads
            task = _task(self._ray, tasks.make_part, node, processors=threads)
            home = str(self._coordinator.home.path)
            self._running[task.remote(home, job.build, job.number)] = (job, node)

    def _book(self) -> None:
        """Wait a little for tasks to end, and write down what they say."""
        if not self._running:
            jobs.pause()
            return
        ended, _ = self._ray.wait(list(self._running), timeout=_WAIT_S)
        for reference in ended:
            job, node = self._running.pop(reference)
            self._places.give_back(node)
            with jobs.held(self._coordinator, job, self._parts.owner):
                told = _answer(self._ray, reference)
                if "error" in told:
                    raise KitError(told["error"], hint=told["hint"] or None)
                jobs.finish(self._coordinator, job, self._parts.owner, **told)

    def _stop(self) -> None:
        """Leave what still runs to the next one; a task that is too far ends by itself."""
        for reference, (job, _) in self._running.items():
            with suppress(KitError, self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
                stopped = KitError("the build was stopped")
                jobs.give_back(self._coordinator, job, self._parts.owner, stopped)


def _task(ray: Any, function: Any, node: str, *, processors: int) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    remote = ray.remote(max_retries=0)(function)
    return remote.options(num_cpus=processors, scheduling_strategy=here)


def _answer(ray: Any, reference: Any) -> dict[str, Any]:
    """Return what a task said: a table of strings and numbers.

    Raises:
        KitError: its process or node ended, or it failed.
    """
    try:
        told: dict[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise KitError(
            f"a task of the Ray cluster failed: {_words(error)}",
            hint="run the same command again; `coordinator builds show` says which job it was",
        ) from error
    return told


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
