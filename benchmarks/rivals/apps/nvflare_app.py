"""What NVFlare runs at both ends: a task that is answered with an update, and who waits for it."""

import time

import turns
from nvflare.apis.controller_spec import Task
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable

SITE, TASK = "site-1", "send"


class Sender(Executor):
    """The site: makes the update first, and looks at the clock when it lets go of it."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        since = time.process_time()
        arrays = turns.update(shareable["size"])
        dxo = DXO(DataKind.WEIGHTS, data=arrays)
        dxo.set_meta_prop("left", turns.leaving(arrays, since=since))
        return dxo.to_shareable()


class Receiver(Controller):
    """The coordinator: asks for each update, and looks at the clock when its code holds it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def start_controller(self, fl_ctx):
        self.turns = turns.Turns(self.folder)

    def stop_controller(self, fl_ctx):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        while not abort_signal.triggered:
            asked = Shareable({"size": self.turns.wait()})
            task = Task(TASK, data=asked, result_received_cb=self._received)
            self.broadcast_and_wait(
                task, fl_ctx, targets=[SITE], min_responses=1, abort_signal=abort_signal
            )

    def process_result_of_unknown_task(self, client, task_name, client_task_id, result, fl_ctx):
        pass

    def _received(self, client_task, fl_ctx):
        dxo = from_shareable(client_task.result)
        self.turns.answer(dxo.data, dxo.get_meta_prop("left"))
        client_task.result = None
