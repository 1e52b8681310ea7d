"""What Flower runs at both ends: a message answered with an update, and who waits for it."""

import time

import turns
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

POLL_S = 0.1

site = ClientApp()
coordinator = ServerApp()


@site.train()
def send(message, context):
    """The site: makes the update first, and looks at the clock when it lets go of it.

    It is a process of its own for each message: since its start nothing was the exchange's but
    fetching an empty message.
    """
    arrays = turns.update(message.content["asked"]["size"])
    left = ConfigRecord(turns.leaving(arrays, since=0))
    record = ArrayRecord.from_numpy_ndarrays([arrays[name] for name in sorted(arrays)])
    return Message(RecordDict({"arrays": record, "left": left}), reply_to=message)


@coordinator.main()
def receive(grid, context):
    """The coordinator: asks for each update, and looks at the clock when its code holds it."""
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(POLL_S)
    told = turns.Turns(context.run_config["folder"])
    while True:
        asked = RecordDict({"asked": ConfigRecord({"size": told.wait()})})
        (reply,) = grid.send_and_receive([Message(asked, nodes[0], "train")])
        content = reply.content
        held = content["arrays"].to_numpy_ndarrays()
        told.answer({f"{n:09}": each for n, each in enumerate(held)}, dict(content["left"]))
