from tests.fakes.stages import enrolled, pending, released

__all__ = ["enrolled", "pending", "released"]
