"""The default engine: one part after the other, in this process."""

from coordinator import jobs
from coordinator.context import Coordinator
from coordinator.engines.parts import AnyMaker, Parts


class InProcess:
    """This process (an `Engine`)."""

    name = "in-process"

    def make(self, coordinator: Coordinator, parts: Parts) -> None:
        """Make whatever no other process makes, and wait for those."""
        from federation.learning.downstream.numerics import pinned_threads

        maker = AnyMaker(coordinator, parts.setting)
        mine = jobs.each(coordinator, parts.build, parts.kind, parts.owner, parts.report)
        with pinned_threads(parts.setting.threads):
            for job in mine:
                with jobs.held(coordinator, job, parts.owner):
                    is_new = maker.make(parts.parts[job.number - parts.first])
                    jobs.finish(coordinator, job, parts.owner, generated=is_new, **jobs.worker())
