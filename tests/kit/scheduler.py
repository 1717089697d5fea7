"""A seeded scheduler: plain blocking code of many actors, interleaved at named points, in virtual time.

Every actor is a task (a greenlet). A task runs alone until it comes to a switch point (`pause`, `sleep`,
`Signal.wait`); there the scheduler's tape decides who goes on. Time stands still while anybody can run. The same tape
and the same code give the same trace, event for event.

A *machine* is a group of tasks that stop together: `crash` raises Crashed in each of them where it stands, and any
switch point that a dying task comes to raises it again, so that nothing happens after the crash, whatever a `finally`
would like to do.

Does not: know what the actors do. Not for threads: everything runs in the thread that calls `run`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from greenlet import getcurrent, greenlet

Event = tuple[float, str, str, object]  # when, which task, what it came to, about what
STICKY: Final = (0.0, 0.3, 0.7, 0.9)


class Crashed(BaseException):
    """This task's machine has stopped. Nobody may catch it; raised again at every switch point until the task ends."""


class Stuck(AssertionError):
    """The run took more steps than allowed: somebody goes round in circles. The end of the trace shows who."""


@dataclass(eq=False)
class Machine:
    name: str
    alive: bool = True
    tasks: list[Task] = field(default_factory=list)


class Task:
    """One actor. `waits` is what it waits for, when it does."""

    __slots__ = ("ended", "greenlet", "machine", "name", "started", "waits", "woken")

    greenlet: greenlet  # what runs it; set once it is made

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.machine = machine
        self.started = False
        self.ended = False
        self.waits: object = None  # identity of the present wait; None: it can run
        self.woken = False


class Scheduler:
    """`trace` is what happened so far; `now` the virtual time in seconds; `steps` counts switch points."""

    def __init__(self, tape: random.Random, *, steps_max: int = 2_000_000) -> None:
        self.now = 0.0
        self.steps = 0
        self.steps_max = steps_max
        self.trace: list[Event] = []
        self.current: Task | None = None
        self._random = tape.random
        self._sticky = tape.choice(STICKY)
        self._runnable: list[Task] = []
        self._timers: list[tuple[float, int, Task, object]] = []
        self._timer_number = 0
        self._hub = getcurrent()
        self._failure: BaseException | None = None

    # --- tasks --------------------------------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        return Machine(name)

    def spawn(self, machine: Machine, name: str, function: Callable[[], object]) -> Task:
        """A new task that will run `function`. What it raises ends the whole run."""
        if not machine.alive:
            raise Crashed
        task = Task(name, machine)

        def body() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001  # told by `run`, in its own greenlet
                # What a dying task makes of its end is nobody's concern: the machine is off.
                if machine.alive and self._failure is None:
                    self._failure = error
            task.ended = True
            machine.tasks.remove(task)

        task.greenlet = greenlet(body, parent=self._hub)
        machine.tasks.append(task)
        self._runnable.append(task)
        return task

    def crash(self, machine: Machine) -> None:
        """Stop every task of `machine` where it stands. To be called from outside of it."""
        assert self.current is None or self.current.machine is not machine
        machine.alive = False
        for task in list(machine.tasks):
            if task in self._runnable:
                self._runnable.remove(task)
            task.waits = None
            if not task.started:
                machine.tasks.remove(task)
                continue
            caller = self.current
            self.current = task
            task.greenlet.parent = getcurrent()
            for _ in range(100):
                task.greenlet.throw(Crashed)
                if task.greenlet.dead:
                    break
            else:
                raise AssertionError(f"{task.name} does not end when its machine crashes")
            self.current = caller
        assert not machine.tasks

    # --- switch points ------------------------------------------------------------------------------------------

    def pause(self, what: str, about: object = None) -> None:
        """A switch point: somebody else may run now. Outside of any task nothing happens."""
        task = self.current
        if task is None:
            return
        if not task.machine.alive:
            raise Crashed
        self.trace.append((self.now, task.name, what, about))
        self.steps += 1
        runnable = self._runnable
        if self.steps > self.steps_max:
            self._fail(Stuck(f"more than {self.steps_max} steps at {self.now:.3f} s"))
        if not runnable or (self._sticky and self._random() < self._sticky):
            return
        at = int(self._random() * (len(runnable) + 1))
        if at == len(runnable):
            return
        other = runnable[at]
        runnable[at] = task
        self._switch(other)
        if not task.machine.alive:
            raise Crashed

    def sleep(self, seconds: float) -> None:
        """Wait for virtual time to pass."""
        self.wait(object(), seconds)

    def wait(self, reason: object, timeout_s: float | None) -> bool:
        """Until `wake` names this `reason`, or the time is over; whether it was woken. Not outside of a task."""
        task = self.current
        assert task is not None, "only a task can wait"
        if not task.machine.alive:
            raise Crashed
        task.waits, task.woken = reason, False
        if timeout_s is not None:
            self._timer_number += 1
            heapq.heappush(self._timers, (self.now + max(0.0, timeout_s), self._timer_number, task, reason))
        self._hub.switch()
        if not task.machine.alive:
            raise Crashed
        return task.woken

    def wake(self, task: Task, reason: object) -> None:
        """Let a task that waits for `reason` go on; nothing happens when it does not wait for that (any more)."""
        if task.waits is reason and reason is not None:
            task.waits, task.woken = None, True
            self._runnable.append(task)

    # --- running ------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None, *, at_most_s: float | None = None) -> bool:
        """Run until `until` (asked whenever all wait) holds, nobody has anything to do, or `at_most_s` of virtual time
        are over; whether `until` held (None: whether there was nothing left to do). Raises what a task raised."""
        assert self.current is None, "only from outside of all tasks"
        self._hub = getcurrent()
        end = None if at_most_s is None else self.now + at_most_s
        while True:
            while self._runnable:
                at = int(self._random() * len(self._runnable))
                self._switch(self._runnable.pop(at))
                self.current = None
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
            if until is not None and until():
                return True
            if not self._advance(end):
                return until is None and not self._timers

    def _advance(self, end: float | None) -> bool:
        """Let the next timer ring; False when there is none before `end`."""
        while self._timers:
            at, _, task, reason = self._timers[0]
            if task.waits is not reason or task.ended:
                heapq.heappop(self._timers)  # was woken before
                continue
            if end is not None and at > end:
                self.now = end
                return False
            heapq.heappop(self._timers)
            self.now = max(self.now, at)
            task.waits, task.woken = None, False
            self._runnable.append(task)
            if not self._timers or self._timers[0][0] > self.now:
                return True
        return bool(self._runnable)

    def close(self, machines: list[Machine]) -> None:
        """End all tasks; for the end of a test."""
        for machine in machines:
            self.crash(machine)

    def _switch(self, task: Task) -> None:
        task.started = True
        self.current, before = task, self.current
        task.greenlet.switch()
        self.current = before

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._hub.switch()


class Signal:
    """What tasks wait for; one `notify` wakes all of them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting: list[tuple[Task, object]] = []

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it was notified (else the time was over)."""
        task = self._scheduler.current
        assert task is not None
        reason = object()
        self._waiting.append((task, reason))
        return self._scheduler.wait(reason, timeout_s)

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task, reason in waiting:
            self._scheduler.wake(task, reason)


class SimClock:
    """node.base.clock.Clock on virtual time; `skew_s` moves the wall clock, which `jump` may change. `switches` False:
    asking it is no switch point."""

    EPOCH_S: Final = 1_790_000_000.0

    def __init__(self, scheduler: Scheduler, skew_s: float = 0.0, *, switches: bool = True) -> None:
        self._scheduler = scheduler
        self._switches = switches
        self.skew_s = skew_s

    def monotonic(self) -> float:
        if self._switches:
            self._scheduler.pause("clock")
        return self._scheduler.now

    def now(self) -> float:
        if self._switches:
            self._scheduler.pause("clock")
        return self.EPOCH_S + self._scheduler.now + self.skew_s

    def jump(self, seconds: float) -> None:
        self.skew_s += seconds
