from tests.fakes.stages import approved, enrolled, pending, released

__all__ = ["approved", "enrolled", "pending", "released"]
