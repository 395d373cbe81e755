"""What a strategy reads, writes, asks for and prints, seen from outside its process."""

from __future__ import annotations

from ...backbones import hash_state
from ..confined import first_look, sighting
from ..report import Fault
from ..trial import Setup, Trial, brief


def runs_to_the_end(trial: Trial) -> None:
    """A small run ends in time and without an error; nothing else can be checked before."""
    seen = first_look(trial)
    if seen.late:
        raise Fault(f"The plain run takes more than {trial.seconds:g} s; set options={{...}} that make it quick.")
    problem = trial.known(Setup()).error
    if problem is not None:
        raise Fault(f"finetune raised {brief(problem)}; mend it, or give options={{...}} and norms=(...) that suit it.")
    if seen.error:
        raise Fault(f"finetune raised {seen.error} in another process; it must depend on nothing but model and run.")


def works_in_another_process(trial: Trial) -> None:
    """Class and options reach a worker process, which ends with the same weights as this one."""
    seen = first_look(trial)
    if seen.unloaded:
        raise Fault(f"The class cannot be loaded in another process ({seen.unloaded}); define it at module level.")
    seen = sighting(trial)
    trial.require_repeatable()
    if seen.weights != hash_state(trial.base.state):
        raise Fault(
            "Another process ends with other weights; sort what comes out of a set, and draw nothing from hash(), the"
            " time or the process."
        )


def opens_no_data_set(trial: Trial) -> None:
    """No file of a data set is opened while the strategy runs, so that no way leads to test images."""
    for path in sighting(trial).read:
        raise Fault(f"{path} was opened; use run.train and run.val, which are all the data that a strategy has.")


def writes_into_its_run_directory_only(trial: Trial) -> None:
    """What a run leaves behind lies in its directory, so that runs side by side do not meet."""
    for path in sighting(trial).written:
        raise Fault(f"{path} was written or removed; keep values with run.once, run.report and run.log.")


def opens_no_connection(trial: Trial) -> None:
    """A run needs no network: what it starts from is on disk, and hashed, before it begins."""
    for address in sighting(trial).connected:
        raise Fault(f"A connection to {address} was asked for; weights come in through --backbone and --weights.")


def prints_nothing(trial: Trial) -> None:
    """stdout belongs to the result, which other programs read."""
    if said := sighting(trial).printed:
        raise Fault(f"{said!r} was printed; use run.log for records and run.progress.say for a reader.")
