from kit.errors import FormatError


class RefusalError(FormatError):
    """A blueprint that a numbered step of `docs/blueprint-format.md` section 5 refuses."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(f"step {step}: {message}")
        self.step = step
