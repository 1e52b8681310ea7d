from dataclasses import asdict

import pytest

from edge_agent.outgoing import mechanism_of
from federation.accounting import DpEvent
from tests.fakes.federation import mechanism


def test_a_mechanism_is_read_with_one_event_flat_as_runs_of_before_wrote_it():
    one = mechanism()
    several = mechanism(DpEvent(sample_rate=1.0, noise_multiplier=20.0, steps=1))
    flat = asdict(one.events[0]) | {"delta": one.delta, "epsilon": one.epsilon}
    assert mechanism_of(flat) == mechanism_of(asdict(one)) == one
    assert mechanism_of(asdict(several)) == several != one
    with pytest.raises(KeyError):
        mechanism_of({name: value for name, value in flat.items() if name != "steps"})
