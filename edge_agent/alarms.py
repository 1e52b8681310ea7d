"""Alarms: found at every contact, kept, and open until a person at the site acknowledged them."""

from dataclasses import asdict, dataclass
from datetime import datetime

from edge_agent import acts, watch
from edge_agent.errors import AlarmError
from edge_agent.home import Home
from edge_agent.trust import World
from edge_agent.watch import Alarm, Own
from kit import canonical, clock
from kit.door import note
from kit.errors import FormatError, KitError
from kit.files import write_atomic
from pki import keys

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An alarm as this home keeps it; `acknowledged` is when a person said so, empty until then."""

    entry: int
    time: str
    event: str
    subject: str
    words: str
    acknowledged: str = ""

    @property
    def line(self) -> str:
        """The alarm in one line."""
        return f"log entry {self.entry} of {self.time}: {self.words} (`{self.event}`)"


def look(home: Home, world: World) -> list[Kept]:
    """Read the verified log for this site's name; keep what is found, and say what is open.

    Raises:
        TrustError: the coordinator gives a salt that its log does not commit to.
    """
    acts.begin(home, since=world.trust.size)
    done = acts.known(home)
    own = Own(
        identity=home.identity,
        witness=keys.public_bytes(keys.load_signing(home.key("witness.key"))),
        salt=world.pseudonym_salt,
        acts=done if done is not None else acts.Acts(since=0, digests=frozenset()),
    )
    before = {alarm.entry: alarm for alarm in kept(home)}
    found = {a.entry: before.get(a.entry, _new(a)) for a in watch.alarms(world.log.leaves, own)}
    result = [alarm for _, alarm in sorted((before | found).items())]
    if result != list(before.values()):
        _write(home, result)
    for alarm in result:
        if not alarm.acknowledged:
            note(f"alarm: {alarm.line}")
    return result


def kept(home: Home) -> list[Kept]:
    """Return every alarm this home ever had, oldest log entry first.

    Raises:
        FormatError: the file is damaged.
    """
    if not home.alarms.is_file():
        return []
    data = canonical.decode(home.read(home.alarms, "alarms"))
    table = canonical.fields(data, {"version", "alarms"}, what="alarms")
    canonical.version(table["version"], expected=VERSION, what="alarms")
    if not isinstance(table["alarms"], list):
        raise FormatError("alarms are damaged")
    names = set(Kept.__slots__)
    return [Kept(**canonical.fields(item, names, what="alarm")) for item in table["alarms"]]


def acknowledge(home: Home, entry: int, *, now: datetime) -> Kept:
    """Note that a person at the site knows what stands behind an alarm.

    Raises:
        KitError: there is no such alarm.
    """
    found = kept(home)
    if entry not in {alarm.entry for alarm in found}:
        raise KitError(f"there is no alarm about log entry {entry}", hint="see `edge-agent status`")
    changed = [
        Kept(**asdict(alarm) | {"acknowledged": alarm.acknowledged or clock.rfc3339(now)})
        if alarm.entry == entry
        else alarm
        for alarm in found
    ]
    _write(home, changed)
    return next(alarm for alarm in changed if alarm.entry == entry)


def require_none(home: Home) -> None:
    """Let a command end well only if no alarm is open.

    Raises:
        AlarmError: one is.
    """
    still = [alarm for alarm in kept(home) if not alarm.acknowledged]
    if still:
        raise AlarmError(
            f"{len(still)} log entries about this site are not its own doing; the first is"
            f" {still[0].line}",
            hint="call the coordinator; a copied TLS key is taken out of use by `edge-agent renew"
            f" --reclaim`; once explained: `edge-agent status --acknowledge {still[0].entry}`",
        )


def _new(alarm: Alarm) -> Kept:
    return Kept(**asdict(alarm))


def _write(home: Home, found: list[Kept]) -> None:
    table = {"version": VERSION, "alarms": [asdict(alarm) for alarm in found]}
    write_atomic(home.alarms, canonical.encode(table), mode=0o600)
