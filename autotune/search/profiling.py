"""Takes the profile through the executor: the uncached pass, then probes on all workers; all is kept."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.scoring.case import Case
from autotune.scoring.profile import Profile
from autotune.scoring.sensitivity import probe_steps, sensitivity
from autotune.search.dispatch import Dispatcher, RunBrokenError, last_line
from autotune.search.store import RunFolder

DONE, PART = "profile.json", "profile.part.json"


@dataclass
class Profiling:
    """One profile in work; what is in is kept in the folder, so that a resumed search goes on with it.

    Attributes:
        dispatcher: where the drawings run.
        folder: the run folder.
        cases: of the uncached pass.
        probed: cases of each probe, the first of `cases`.
        stop: whether to end early.
        tell: told how far it is.
    """

    dispatcher: Dispatcher
    folder: RunFolder
    cases: tuple[Case, ...]
    probed: int
    stop: Callable[[], bool]
    tell: Callable[[str], None]
    _errors: dict[int, float] = field(default_factory=dict)

    def take(self) -> Profile | None:
        """Return the profile; None when told to stop before it was whole.

        Raises:
            RunBrokenError: a drawing failed.
        """
        done = self.folder.path / DONE
        if done.exists():
            return Profile.from_json(done.read_text())
        base = self._base()
        steps = probe_steps(base.num_steps)
        left = deque(step for step in steps if step not in self._errors)
        while self.dispatcher.flying or (left and not self.stop()):
            while left and self.dispatcher.free and not self.stop():
                step = left.popleft()
                self.dispatcher.submit("probe", self.cases[: self.probed], step, count=step)
            for tag, result in self.dispatcher.wait():
                if not isinstance(result.value, float):
                    raise RunBrokenError(f"a probe of the profile failed: {last_line(result.error)}")
                self._errors[int(str(tag))] = result.value
                self._keep(base)
                self.tell(f"profile: {len(self._errors)}/{len(steps)} steps probed")
        if len(self._errors) < len(steps):
            return None
        whole = base.with_sensitivity(sensitivity(base, self._errors))
        self.folder.write(DONE, whole.to_json())
        (self.folder.path / PART).unlink(missing_ok=True)
        return whole

    def _base(self) -> Profile:
        part = self.folder.path / PART
        if part.exists():
            data = json.loads(part.read_text())
            self._errors = {int(step): error for step, error in data["probes"].items()}
            return Profile.from_json(data["profile"])
        value = self.dispatcher.run("profile", self.cases, 1).value
        if not isinstance(value, Profile):
            raise TypeError("a profile task returned something else")
        self._keep(value)
        return value

    def _keep(self, base: Profile) -> None:
        self.folder.write(PART, json.dumps({"profile": base.to_json(), "probes": self._errors}))
