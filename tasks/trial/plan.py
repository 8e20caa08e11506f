"""The checks of a trial in order, each with its time limit."""

from dataclasses import dataclass

TOTAL_S = {"cuda": 175.0, "cpu": 600.0}
"""Seconds for all checks together; those that no time is left for say so. A CPU takes 40 s where nothing else runs,
and many times that where all of a machine's cores are busy."""

PATIENCE = {"cuda": 1.0, "cpu": 8.0}
"""By which the limits below are multiplied: a CPU is rarely one's own."""


@dataclass(frozen=True, slots=True)
class TrialCheck:
    """One check.

    Args:
        name: for people, and what its row is called where it does not come to one.
        function: module.function; takes the place and a folder to work in, yields rows.
        limit_s: seconds it may take, the import of what it needs included.
        computes: whether it uses the device, and so runs in a process that can be ended.
    """

    name: str
    function: str
    limit_s: float
    computes: bool = True


CHECKS = (
    TrialCheck("device", "tasks.trial.facts.facts", 60),
    TrialCheck("second training", "tasks.trial.slots.second_training", 20, computes=False),
    TrialCheck("after a death", "tasks.trial.slots.after_a_death", 45, computes=False),
    TrialCheck("foreign process", "tasks.trial.slots.foreign_process", 45, computes=False),
    TrialCheck("copy rate", "tasks.trial.memory.copy_rate", 20),
    TrialCheck("loss and gradients", "tasks.trial.agreement.gradients", 40),
    TrialCheck("resnet18", "tasks.trial.speed.resnet18", 45),
    TrialCheck("vit_b_16", "tasks.trial.speed.vit_b_16", 45),
    TrialCheck("batch too large", "tasks.trial.memory.halved_batch", 30),
    TrialCheck("killed and resumed", "tasks.trial.resume.killed_and_resumed", 75),
    TrialCheck("splats against the CPU", "tasks.trial.splats.checks.agreement", 90),
    TrialCheck("splats", "tasks.trial.splats.fit.fit", 60),
)
