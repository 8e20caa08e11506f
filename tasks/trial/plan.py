"""The checks of a trial in their order, each with its own time limit."""

from dataclasses import dataclass

TOTAL_S = {"cuda": 175.0, "cpu": 600.0}
"""Seconds for all checks together; those that no time is left for say so. A CPU takes 40 s where nothing else runs,
and many times that where all of a machine's cores are busy."""

PATIENCE = {"cuda": 1.0, "cpu": 8.0}
"""By which the limits below are multiplied: a CPU is rarely one's own."""


@dataclass(frozen=True, slots=True)
class Check:
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
    Check("device", "tasks.trial.facts.facts", 60),
    Check("second training", "tasks.trial.slots.second_training", 20, computes=False),
    Check("after a death", "tasks.trial.slots.after_a_death", 45, computes=False),
    Check("foreign process", "tasks.trial.slots.foreign_process", 45, computes=False),
    Check("copy rate", "tasks.trial.memory.copy_rate", 20),
    Check("loss and gradients", "tasks.trial.agreement.gradients", 40),
    Check("resnet18", "tasks.trial.speed.resnet18", 45),
    Check("vit_b_16", "tasks.trial.speed.vit_b_16", 45),
    Check("batch too large", "tasks.trial.memory.halved_batch", 30),
    Check("killed and resumed", "tasks.trial.resume.killed_and_resumed", 75),
    Check("splats against the CPU", "tasks.trial.splats.checks.agreement", 90),
    Check("splats", "tasks.trial.splats.fit.fit", 60),
)
