"""A training run on Cloud TPU that continues after preemptions. It runs the commands of `tpu_vm` and `tpu_training`."""

import dataclasses
import pathlib
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence

from keras_robust.tools import tpu_training
from keras_robust.tools.tpu_training import Training
from keras_robust.tools.tpu_vm import LOST_STATES, READY_STATES, TpuVm
from keras_robust.training.preemption import START_AGAIN

STEPS = ("create", "install", "train", "fetch", "delete")
NOT_FOUND = "NOT_FOUND"
LOOKS = 5
"""How often a job that has begun asks gcloud for the state before it gives up: a VM that it leaves costs money."""
FINAL_EXIT_CODES = (1, 2)
"""Exit codes of Python programs and gcloud for errors that another start would not remove."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Exit code of a command. `output` and `errors` have what it printed if this was captured."""

    exit_code: int = 0
    output: str = ""
    errors: str = ""


Run = Callable[[Sequence[str], bool], Result]
"""Runs a command. Its second argument says whether to capture what the command prints."""


class StepError(ChildProcessError):
    """A step failed on the TPU VM, or the VM was lost.

    Attributes:
        exit_code: exit code of the command; None if the VM was lost before the command ran.
    """

    def __init__(self, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def execute(command: Sequence[str], capture: bool) -> Result:
    """Prints a command and runs it."""
    print(shlex.join(command), flush=True)
    ended = subprocess.run(command, capture_output=capture, text=True, check=False)
    if capture:
        print(f"# {(ended.stdout or ended.stderr).strip()}", flush=True)
    return Result(ended.returncode, ended.stdout or "", ended.stderr or "")


class DryRun:
    """Prints commands and runs none of them, as if there were no TPU VM at first and then one that works."""

    def __init__(self) -> None:
        self.describes = 0

    def __call__(self, command: Sequence[str], capture: bool) -> Result:
        """Prints a command. The first captured command asks for the state before the VM is created."""
        print(shlex.join(command))
        if not capture:
            return Result()
        self.describes += 1
        return Result(1, errors=NOT_FOUND) if self.describes == 1 else Result(output=READY_STATES[0])


@dataclasses.dataclass
class Job:
    """A training run on a TPU VM.

    Attributes:
        vm: the TPU VM.
        training: the training run.
        repository: folder of the repository whose last commit runs.
        archive: file on this machine into which the commit is packed.
        output: folder on this machine for the results.
        run: runs the commands: `execute`, or a `DryRun`.
        max_restarts: how often the whole job may retry a step after an interruption, at least 0.
        poll_seconds: seconds between two requests for the state, and before a step is tried again.
        sleep: waits for a number of seconds.
    """

    vm: TpuVm
    training: Training
    repository: str
    archive: str
    output: str
    run: Run = execute
    max_restarts: int = 10
    poll_seconds: float = 60
    sleep: Callable[[float], None] = time.sleep
    _begun: bool = dataclasses.field(default=False, init=False)

    def do(self, steps: Sequence[str]) -> None:
        """Does steps, in the order of `STEPS`. It repeats create, install and train after an interruption.

        The same call also continues a job that was itself interrupted: it does not create again what exists.

        Raises:
            ValueError: if a step is unknown, or `Training.check` refuses the run. Nothing is run in this case.
            ChildProcessError: if a command fails. The VM may still exist, and then costs money.
        """
        unknown = [step for step in steps if step not in STEPS]
        if unknown or not steps:
            raise ValueError(
                f"Steps must be one or more of {','.join(STEPS)}. Received: {','.join(unknown or steps)!r}"
            )
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts must be at least 0. Received: max_restarts={self.max_restarts}")
        if {"install", "train", "fetch"} & set(steps):
            self.training.check(self.vm)
        self._over_interruptions([step for step in STEPS[:3] if step in steps])
        if "fetch" in steps:
            self._say("Copying the results")
            for command in self.training.fetch(self.vm, self.output):
                self._run(command)
        if "delete" in steps:
            self._say("Deleting the TPU VM, so that it costs nothing more")
            self._run(self.vm.delete())

    def _over_interruptions(self, pending: list[str]) -> None:
        """Does steps until they succeed. If the VM was taken away, it starts again with create and install."""
        methods = {"create": self._create, "install": self._install, "train": self._train}
        restarts = 0
        while pending:
            try:
                methods[pending[0]]()
                pending = pending[1:]
            except StepError as failure:
                self.sleep(self.poll_seconds)  # the state shows only after a while that a machine was taken away
                state = self._state()
                if not self._interrupted(failure, state) or restarts == self.max_restarts:
                    raise ChildProcessError(
                        f"{failure}, restarts: {restarts}, state of {self.vm.name}: {state}. It costs money until you "
                        f"delete it: {shlex.join(self.vm.delete())}"
                    ) from failure
                restarts += 1
                self._say(f"{failure}; state {state}; restart {restarts} of {self.max_restarts}")
                if state not in READY_STATES:
                    pending = ["create", "install", *(step for step in pending if step == "train")]

    def _interrupted(self, failure: StepError, state: str) -> bool:
        """Returns whether a step failed because of an interruption, and not because of an error in the step."""
        if state in READY_STATES:
            return failure.exit_code not in FINAL_EXIT_CODES
        return self.vm.spot or state not in (*LOST_STATES, NOT_FOUND)

    def _create(self) -> None:
        self._say("Looking for the TPU VM, because one that exists is not created again")
        state = self._state()
        if state in LOST_STATES:
            if not self.vm.spot:
                raise ChildProcessError(f"{self.vm.name} is {state}. Delete it first: {shlex.join(self.vm.delete())}")
            self._run(self.vm.delete())
            state = NOT_FOUND
        if state == NOT_FOUND:
            self._say("Creating the TPU VM")
            self._run(self.vm.create())
            self._say(f"Asking for its state every {self.poll_seconds:g} s, until it is {self.vm.ready_state}")
            state = self._state()
        while state not in READY_STATES:
            if state in LOST_STATES or state == NOT_FOUND:
                raise StepError(f"{self.vm.name} was lost before it was ready", None)
            self.sleep(self.poll_seconds)
            state = self._state()

    def _install(self) -> None:
        self._say("Installing the last commit of the repository, TensorFlow, and the config file of this machine")
        if self.vm.several_hosts:
            self._say(
                "With several workers, gcloud needs its key in an SSH agent: ssh-add ~/.ssh/google_compute_engine"
            )
        self._run(tpu_training.archive(self.repository, self.archive))
        name = pathlib.PurePath(self.archive).name
        self._run_on_vm("copying", self.vm.copy_to(self.archive, name))
        self._run_on_vm("installing", tpu_training.install(self.vm, name, self._requirements()))
        self._run_on_vm("copying the config", self.training.copy_config(self.vm))

    def _requirements(self) -> list[str]:
        return tpu_training.requirements((pathlib.Path(self.repository) / "setup.py").read_text())

    def _train(self) -> None:
        if self.vm.several_hosts:
            self._say("Starting TensorFlow's servers on all workers")
            self._run_on_vm("starting the servers", tpu_training.serve(self.vm))
        self._say(f"Training, repeated after exit code {START_AGAIN}, a lost connection or a preemption")
        self._run_on_vm("training", self.training.train(self.vm))

    def _state(self) -> str:
        """Returns the state of the VM or queued resource, or `NOT_FOUND`. Once the job has begun, it retries errors."""
        for looks_left in reversed(range(LOOKS if self._begun else 1)):
            result = self.run(self.vm.state(), True)
            if result.exit_code == 0 or NOT_FOUND in result.errors:
                self._begun = True
                return NOT_FOUND if result.exit_code else result.output.strip()
            if looks_left:
                self.sleep(self.poll_seconds)
        raise ChildProcessError(
            f"gcloud does not return the state of {self.vm.name}: {result.errors.strip()}. If it exists, it costs "
            f"money until you delete it: {shlex.join(self.vm.delete())}"
        )

    def _run(self, command: Sequence[str]) -> None:
        exit_code = self.run(command, False).exit_code
        if exit_code:
            raise ChildProcessError(f"{shlex.join(command)} ended with exit code {exit_code}")

    def _run_on_vm(self, what: str, command: Sequence[str]) -> None:
        self._begun = True
        exit_code = self.run(command, False).exit_code
        if exit_code:
            raise StepError(f"{what} ended with exit code {exit_code}", exit_code)

    def _say(self, comment: str) -> None:
        print(f"# {comment}", flush=True)
