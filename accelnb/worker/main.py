"""A rank's process, from its first line to its last."""

from __future__ import annotations

import atexit
import faulthandler
import functools
import gc
import os
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any

from accelnb.devices import DEVICES
from accelnb.engine.process.children import die_with_parent
from accelnb.engine.process.output_pipes import Output
from accelnb.engine.serialization.pack import (
    Packed,
    Received,
    dumps,
    finished,
    finished_in_message,
)
from accelnb.engine.serialization.torch_objects import rebuild_on
from accelnb.engine.wire.channel import Channel
from accelnb.engine.wire.encryption import Curve
from accelnb.engine.wire.messages import Link, Message, check_sendable
from accelnb.engine.wire.queries import ANSWER, QUERY
from accelnb.errors import AccelnbError
from accelnb.training import streaming, whereabouts
from accelnb.training.memory import clear_device_cache
from accelnb.training.parallel import repair
from accelnb.worker import (
    completion,
    interrupt,
    out_of_memory,
    progress,
    sharded_values,
    stack_report,
)
from accelnb.worker.cell_options import CellOptions
from accelnb.worker.event_loop import CellLoop
from accelnb.worker.link import RankLink
from accelnb.worker.lost_peer import LOST_PEER
from accelnb.worker.notebook_context import NotebookContext
from accelnb.worker.notebook_settings import NotebookSettings
from accelnb.worker.output import PipeReader, flush_all, install_writers, restore_descriptors
from accelnb.worker.process_group import RankProcessGroup
from accelnb.worker.shell import Cell, CellError, RankShell, make_shell

BeRank = Callable[[dict[str, Any], Sequence[Output], Sequence[int]], int]

_DROPPED = "{what}: the gradients of sharded models, which may be half done, were dropped"

_shell: RankShell | None = None


def prepare(folder: str) -> None:
    """Do in the fork server what every rank would do alike."""
    global _shell
    _shell = make_shell(folder)


class Rank:
    """One rank: its shell, its process group, its link to the notebook."""

    def __init__(
        self, spec: dict[str, Any], outputs: Sequence[Output], listener: int | None
    ) -> None:
        self.rank, self.world_size = spec["rank"], spec["world_size"]
        writers = install_writers()
        self._interruptible = False
        interrupt.listen(self._on_interrupt)
        self._context = NotebookContext(spec)
        self._kind = kind = DEVICES[spec["device"]]
        self._device = device = kind.take(spec["local_rank"])
        rebuild_on(device)
        self._of_notebook = NotebookSettings()
        self._of_notebook.follow(spec["context"]["settings"])
        backend = kind.backend_for(kind.is_shared(spec["local_world_size"]))
        self._group = RankProcessGroup(
            self.rank, self.world_size, backend, listener, kind.aborts, self._on_interrupt
        )
        self._stuck_in: str | None = None
        self._has_values = self._has_failed = False
        self._ran_out = False  # of memory, in the cell
        self._bound_to: dict[str, int] | None = None  # identities of variables before the cell
        self._finish = finished if spec["same_machine"] else finished_in_message
        self._link = RankLink(
            lambda: _dial(spec),
            [PipeReader(output) for output in outputs],
            writers,
            lambda request: interrupt.Interrupt(request, self._on_interrupt, self._unstick),
            self._where,
        )
        self._link.start()
        streaming.send_to(self._link.streamed.add)
        progress.watch(self._link.bars)
        self._shell = _shell or make_shell(spec["folder"])
        self._shell.send = self._send
        self._loop = CellLoop(lambda: self._link.requests.put(None))
        self._shell.loop_runner = self._loop.run
        self._shell.user_ns.update(
            rank=self.rank, local_rank=spec["local_rank"], world_size=self.world_size, device=device
        )
        self._settings = CellOptions(self._shell.user_ns, device.type)
        self._form(spec["rendezvous"])

    def serve(self) -> None:
        """Run what the notebook asks for until it asks to end."""
        while True:
            try:
                message = self._next_request()
                if message is None:
                    continue
                if message.kind == "shutdown_request":
                    return
                if message.kind == "form_request":
                    self._form(message.content)
                elif message.kind == QUERY:
                    self._say(message.content)
                else:
                    self._answer(message)
            except KeyboardInterrupt:
                continue  # it came between two cells

    def end(self) -> None:
        """End the tasks that cells left."""
        self._loop.close()

    def _next_request(self) -> Message | None:
        """Wait for a request, and run the tasks that cells left; None if there are new ones."""
        if self._loop.has_work:
            try:
                self._interruptible = True
                self._loop.run_until(self._announce_requests)
            finally:
                self._interruptible = False
                self._link.on_request = None
        return self._link.requests.get()

    def _announce_requests(self, wake: Callable[[], None]) -> bool:
        self._link.on_request = wake
        return self._link.requests.empty()

    def _form(self, rendezvous: dict[str, Any]) -> None:
        self._group.form(rendezvous)
        self._send("formed", {"generation": rendezvous["generation"]})

    def _say(self, query: dict[str, Any]) -> None:
        if self._link.busy_with is None:  # else a cell has come, which is not to wait
            self._link.send(ANSWER, completion.answer(self._shell, query))

    def _answer(self, message: Message) -> None:
        self._stuck_in = None
        self._has_values = self._ran_out = False
        self._bound_to = None
        self._group.begin()
        self._link.streamed.begin()
        self._link.bars.begin()
        whereabouts.begin(message.content.get("run", ""))
        restore_descriptors()
        try:
            reply, packed = self._outcome(message)
        except KeyboardInterrupt as error:  # it came while another error was read
            reply, packed = self._error_reply(CellError(error, [], None)), None
        finally:
            self._interruptible = False
            self._link.busy_with = None
        whereabouts.end()
        reply |= {"sequences": self._group.sequences(), "regroup": not self._group.usable}
        reply |= {"has_values": self._has_values, "assigned": self._assigned()}
        flush_all()
        self._link.bars.end()
        if packed is None:
            self._link.send("execute_reply", reply, message.id)
        else:
            self._link.lent = packed
            self._link.send("execute_reply", reply | packed.content, message.id, packed.buffers)
        if self._ran_out:  # what the cell's frames held is free for the next one
            clear_device_cache(garbage_collection=True)
        gc.collect(0)

    def _outcome(self, message: Message) -> tuple[dict[str, Any], Packed | None]:
        """Run a request; return the reply, and the values that go with it."""
        try:
            self._interruptible = True
            try:
                packed = self._run(message)
            finally:  # here, where an error of a handler that the cell has set is the cell's
                interrupt.listen(self._on_interrupt)
            self._interruptible = False
            return {"status": "ok", "missing": self._missing(message.content)}, packed
        except CellError as error:
            return self._error_reply(error), None
        except (Exception, KeyboardInterrupt) as error:  # it came outside the cell's own code
            return self._error_reply(CellError(error, [], None)), None

    def _run(self, message: Message) -> Packed | None:
        request = message.content
        changes = request.get("context", {})
        self._context.follow(changes)
        self._of_notebook.follow(changes.get("settings", {}))
        self._of_notebook.before_values()
        if "settings" in request:
            self._settings.apply(request["settings"])
        self._repair_models(request.get("after_stop", False))
        self._loop.begin_cell()
        self._shell.know_sources(request.get("sources", {}))
        namespace = self._shell.user_ns
        if message.kind == "call_request":
            function, args, kwargs, *_ = self._rebuilt(
                lambda: Received(request, message.buffers).load()
            )
            self._has_values = True
            self._of_notebook.before_cell()
            value = self._shell.run_call(functools.partial(function, *args, **kwargs))
        else:
            if message.buffers:
                self._rebuilt(lambda: Received(request, message.buffers).unpack(namespace))
            self._has_values = True
            self._of_notebook.before_cell()
            self._bound_to = {name: id(value) for name, value in namespace.copy().items()}
            value = self._shell.run_code_of_cell(
                Cell(**request["cell"]), show_value=not request["result"]
            )
        flush_all()
        return self._brought_back(request, value)

    def _repair_models(self, after_stop: bool) -> None:
        """Make sharded models whole that the last cell left in the middle of a pass."""
        has_failed, self._has_failed = self._has_failed, False
        if after_stop and repair.repair_after_stop():
            print(_DROPPED.format(what="a cell was stopped"), file=sys.stderr)
        elif has_failed and repair.repair_half_done():
            print(_DROPPED.format(what="a pass was cut short"), file=sys.stderr)

    def _rebuilt(self, rebuild: Callable[[], Any]) -> Any:
        try:
            return rebuild()
        except Exception as error:
            raise AccelnbError(
                f"what the notebook sent cannot be rebuilt on rank {self.rank}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _brought_back(self, request: dict[str, Any], value: Any) -> Packed | None:
        back = {"result": value} if request["result"] else {}
        variables = self._shell.user_ns
        back |= {name: variables[name] for name in request.get("pull", ()) if name in variables}
        if not back:
            return None
        sharded_values.check(back, request["ranks"])
        try:
            return dumps(back, request["ranks"], self._finish)
        except Exception as error:
            for name, part in back.items():
                _check_picklable(name, part, request["ranks"])
            raise AccelnbError(f"the values cannot be brought back: {error}") from error

    def _assigned(self) -> list[str]:
        """Return the names that the cell bound, also in ways that its text does not show."""
        if self._bound_to is None:
            return []
        before = self._bound_to
        now = self._shell.user_ns.copy()  # threads of the cell may go on binding names
        return [name for name, value in now.items() if before.get(name) != id(value)]

    def _missing(self, request: dict[str, Any]) -> list[str]:
        return [name for name in request.get("pull", ()) if name not in self._shell.user_ns]

    def _error_reply(self, error: CellError) -> dict[str, Any]:
        self._interruptible = False  # the notebook still gets its reply
        self._has_failed = True
        place, said = error.where, error.evalue
        lost_peer = error.is_runtime_error and bool(LOST_PEER.search(said))
        if hint := self._group.wrapped_on_old(said, self._shell.user_ns):
            said, lost_peer = hint, False
        if lines := out_of_memory.explain(error, self._shell, self._kind, self._device):
            self._ran_out, said = True, f"{said}\n{lines}"
        self._group.broken |= lost_peer
        if self._stuck_in:
            place = f"{place or 'a collective'} (in {self._stuck_in})"
        return {
            "status": "error",
            "ename": error.ename,
            "evalue": said,
            "traceback": error.traceback,
            "where": place,
            "lost_peer": lost_peer,
        }

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        __tracebackhide__ = True
        check_sendable(content)  # here, where it fails on the cell's own line
        flush_all()
        self._link.send(kind, content)

    def _on_interrupt(self, *_: Any) -> None:
        __tracebackhide__ = True
        if self._link.interrupt is not None:
            self._link.interrupt.noticed.set()
        if not self._interruptible:
            return
        if wait := self._group.waits.now():
            self._stuck_in = wait.what
        if not self._loop.interrupt():
            raise KeyboardInterrupt

    def _unstick(self) -> bool:
        """End what the main thread waits for in C++ code, if that is what it does."""
        wait = self._group.waits.now()
        if wait is not None and wait.breaks:
            self._stuck_in = wait.what
        elif collective := stack_report.collective_under_way():
            self._stuck_in = collective["name"]
        else:
            return False
        self._group.unstick(of_store=wait is not None and wait.breaks == "store")
        return True

    def _where(self) -> dict[str, Any]:
        busy = self._link.busy_with is not None
        return stack_report.report(
            self._shell.compile, busy, self._group.waits, self._kind.allocated()
        )


def _dial(spec: dict[str, Any]) -> Link:
    key, identity = bytes.fromhex(spec["key"]), spec["identity"].encode()
    curve = Curve(**spec["curve"]) if "curve" in spec else None
    return Link.dial(spec["address"], key, identity, curve)


def _check_picklable(name: str, value: Any, ranks: Collection[int]) -> None:
    try:
        dumps(value, ranks).close()
    except Exception as error:
        raise AccelnbError(
            f"{sharded_values.named(name)} is a {type(value).__name__}, which cannot be brought "
            f"back to the notebook: {error}"
        ) from error


def run_rank(spec: dict[str, Any], outputs: Sequence[Output], fds: Sequence[int]) -> int:
    """Be the rank that `spec` describes until the notebook is done with it.

    Parameters
    ----------
    outputs
        Where to read what is written to this process's stdout and stderr.
    fds
        Of rank 0 only: the listening socket that its store will serve.

    Returns
    -------
    status : int
        What the process is to end with.
    """
    try:
        _be_rank(spec, outputs, fds[0] if fds else None)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _be_rank(spec: dict[str, Any], outputs: Sequence[Output], listener: int | None) -> None:
    faulthandler.enable(2, all_threads=False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    rank = Rank(spec, outputs, listener)
    try:
        rank.serve()
    finally:
        rank.end()
    atexit._run_exitfuncs()  # what the user's libraries registered: a fork ends without it
    flush_all()


def main(channel: int, be_rank: BeRank = run_rank) -> None:
    """Entry of a spawned rank: read its description from an inherited socket."""
    die_with_parent(os.getppid())
    started = Channel.from_fd(channel)
    start, _ = started.receive()
    started.close()
    outputs = [Output(*output) for output in start["outputs"]]
    sys.exit(be_rank(start["spec"], outputs, start["fds"]))
