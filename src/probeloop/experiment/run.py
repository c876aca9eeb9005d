"""One run of a plan: a thread that drives it, and what the service may do to it meanwhile."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from ..data.calibration import CalibrationSet
from ..data.clock import Clock
from ..data.control import Event, Observed, StateChange
from ..data.driver import InstrumentInfo
from ..data.errors import ProbeloopError
from ..plugin.contract import DropIn, Plan, PlanContext
from .budget import Budget
from .controls import Controls
from .interest import Recorded, ScalarizerInput
from .loop import Gate, Loop
from .plan import PlanRun
from .resume import Interrupted
from .reward import Rewards
from .setup import ExperimentConfig, policy_maker
from .steps import plain
from .streams import FrameStore

STATES = {"abort": "aborted", "stop": "stopped"}


class RunningPlan:
    """A plan under way. over: called in the plan's thread when it ended; then `end_event` says how."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        parameters: Mapping[str, Any],
        seed: int,
        info: InstrumentInfo,
        gate: Gate,
        store: FrameStore,
        controls: Controls,
        clock: Clock,
        emit: Callable[[Event], None],
        over: Callable[[], None],
        *,
        config: ExperimentConfig,
        scalarizers: Mapping[str, ScalarizerInput],
        rewards: Rewards,
        approval: bool,
        interrupted: Interrupted | None = None,
        repeat: bool = False,
        recorded: Recorded | None = None,
    ) -> None:
        self.name, self.seed, self.parameters = name, seed, dict(parameters)
        self.info, self.controls, self.store, self.gate = info, controls, store, gate
        self.drop_ins: dict[str, DropIn] = {"plan": plan, **{n: s.scalarizer for n, s in scalarizers.items()}}
        calibrations = CalibrationSet(info.calibrations)
        for each in scalarizers.values():
            each.scalarizer.context = msgspec.structs.replace(each.scalarizer.context, calibrations=calibrations)
            each.scalarizer.forget()
        self.budget = Budget(config.budget)
        self.rewards = rewards
        self.resumed = len(interrupted.steps) if interrupted else 0
        self.end_event: StateChange | None = None
        self._emit, self._over = emit, over
        self.loop = Loop(
            info,
            gate,
            store,
            controls,
            clock,
            emit,
            budget=self.budget,
            rewards=rewards,
            scalarizers=scalarizers,
            drop_ins=self.drop_ins,
            approval=approval,
            timeouts=config.timeouts,
            interrupted=interrupted,
            repeat=repeat,
            recorded=recorded,
        )
        ctx = PlanContext(
            np.random.default_rng(seed),
            info,
            policy_maker(seed, info, config, self.drop_ins.__setitem__),
            store.topics,
            tuple(scalarizers),
            config.spectra,
        )
        self._driver = PlanRun(plan.run(ctx), self.loop, self._record, interrupted.steps if interrupted else ())
        self._thread = threading.Thread(target=self._run, name="plan", daemon=True)

    @property
    def step(self) -> int:
        """Number of the step under way."""
        return self._driver.number

    @property
    def ended(self) -> bool:
        """True when the plan is over, and only cleaning up is left."""
        return self.end_event is not None

    def start(self) -> None:
        """Say that it runs, and let it."""
        data = {
            "plan": self.name,
            "parameters": plain(self.parameters),
            "seed": self.seed,
            "resumed": bool(self.resumed),
            "steps": self.resumed,
        }
        self._emit(StateChange(target="plan", state="running", data=data))
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread [s]; True when it ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _record(self, number: int, kind: str, value: dict[str, Any]) -> None:
        self._emit(Observed(step=number, kind=kind, value=value))

    def _run(self) -> None:
        try:
            summary = self._driver.run()
            state = STATES.get(summary.pop("ended", ""), "finished" if summary["succeeded"] else "failed")
        except ProbeloopError as error:
            summary, state = {"succeeded": False, "message": str(error)}, "failed"
        except Exception as error:  # a plan, policy or scalarizer may raise anything; the process goes on
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            summary, state = {"succeeded": False, "message": f"{place}: {type(error).__name__}: {error}"}, "failed"
        data = {"plan": self.name, "seed": self.seed, **summary, "budget": self.budget.report()}
        self.end_event = StateChange(target="plan", state=state, reason=summary["message"], data=data)
        self._over()
