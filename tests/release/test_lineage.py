from hypothesis import given
from hypothesis import strategies as st

from federation.release.lineage import Lineage

NODES = st.sampled_from("abcdefg")
GRAPHS = st.frozensets(st.tuples(NODES, NODES), max_size=16).map(Lineage)

# a, b -> r; r -> c (trained from release r); b, c -> s
HOSPITALS = Lineage(frozenset({("a", "r"), ("b", "r"), ("r", "c"), ("c", "s"), ("b", "s")}))


def test_a_blueprint_takes_every_descendant_along_other_sites_included():
    assert HOSPITALS.descendants("a") == {"r", "c", "s"}
    assert HOSPITALS.descendants("c") == {"s"}
    assert HOSPITALS.descendants("s") == frozenset()
    assert HOSPITALS.ancestors("s") == {"a", "b", "c", "r"}
    assert HOSPITALS.ancestors("a") == frozenset()
    assert HOSPITALS.descendants("unknown") == frozenset()


def test_a_release_is_served_only_while_nothing_it_came_from_is_revoked():
    assert HOSPITALS.servable("s", [])
    assert HOSPITALS.servable("r", ["c"])
    for revoked in ("a", "b", "c", "r", "s"):
        assert not HOSPITALS.servable("s", [revoked])


@given(GRAPHS, NODES, NODES)
def test_descent_and_ancestry_are_each_others_mirror(graph, one, other):
    assert (one in graph.descendants(other)) is (other in graph.ancestors(one))


@given(GRAPHS, NODES)
def test_a_node_is_not_its_own_descendant_even_in_a_ring(graph, node):
    assert node not in graph.descendants(node)
    assert node not in graph.ancestors(node)


@given(GRAPHS, NODES)
def test_reach_is_closed(graph, node):
    reach = graph.descendants(node)
    for ancestor, descendant in graph.edges:
        if ancestor in reach | {node} and descendant != node:
            assert descendant in reach


@given(GRAPHS, NODES, st.frozensets(NODES, max_size=4), NODES)
def test_revoking_more_never_makes_a_release_servable(graph, release, revoked, more):
    if not graph.servable(release, revoked):
        assert not graph.servable(release, revoked | {more})
