"""One directed graph over blueprints and releases; a withdrawn node takes its descendants along."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lineage:
    """Edges (ancestor digest, descendant digest): blueprint -> release, release -> blueprint."""

    edges: frozenset[tuple[str, str]]

    def descendants(self, node: str) -> frozenset[str]:
        """Return everything that `node` flowed into, directly or through others, without itself."""
        return self._reach(node, {a: [d for x, d in self.edges if x == a] for a, _ in self.edges})

    def ancestors(self, node: str) -> frozenset[str]:
        """Return everything that flowed into `node`, without itself."""
        return self._reach(node, {d: [a for a, x in self.edges if x == d] for _, d in self.edges})

    @staticmethod
    def _reach(node: str, step: dict[str, list[str]]) -> frozenset[str]:
        found: set[str] = set()
        queue = list(step.get(node, []))
        while queue:
            current = queue.pop()
            if current not in found:
                found.add(current)
                queue.extend(step.get(current, []))
        return frozenset(found - {node})

    def servable(self, release: str, revoked: Iterable[str]) -> bool:
        """Say whether a release may be served: neither it nor any ancestor is revoked."""
        return not ({release} | self.ancestors(release)) & set(revoked)
