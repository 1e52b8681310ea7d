"""What the `keys` commands do on both sides: to a whole home, or to one key file that travels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kit import passphrases
from kit.errors import KitError
from pki import protecting
from pki.protecting import KeyFile, Place, Protected

COLUMNS = ("key", "kept", "mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """Whose keys they are: `owner` in words, where a home keeps them, and how they are sealed."""

    owner: str
    place: Callable[[Path], Place]
    seal: Callable[[Place, Callable[[], str]], Protected] = protecting.protect

    def protect(
        self, home: Path | None, key: Path | None, sources: passphrases.Sources
    ) -> Protected | Mapping[str, str]:
        """Seal one key file if there is one, else all keys of a home, under a passphrase.

        Raises:
            KitError: neither is given; or as `seal` and `protecting.protect_file`.
        """
        if key is not None:
            protecting.protect_file(key, lambda: sources.new(f"key `{key}`"))
            return {"key": str(key), "kept": protecting.ALONE}
        return self.seal(self._place(home), lambda: sources.new(self.owner))

    def change(
        self, home: Path | None, key: Path | None, new_passphrase: Path | None
    ) -> Mapping[str, str | bool]:
        """Change the passphrase of one key file if there is one, else of a home.

        Raises:
            KitError: neither is given; or as `protecting.change`.
        """
        if key is not None:
            protecting.change_file(key, lambda: passphrases.chosen(f"key `{key}`", new_passphrase))
            return {"key": str(key), "changed": True}
        place = self._place(home)
        protecting.change(place.home, lambda: passphrases.chosen(self.owner, new_passphrase))
        return {"home": str(place.home), "changed": True}

    def _place(self, home: Path | None) -> Place:
        if home is None:
            raise KitError("nothing to work on", hint="give --home DIR, or --key FILE")
        return self.place(home)


def rows(found: list[KeyFile]) -> list[tuple[str, str, str]]:
    """Return an inventory as the lines of a table with the head `COLUMNS`."""
    return [(key.name, key.kept, key.mode) for key in found]
