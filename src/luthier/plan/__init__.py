"""The plan: what will run, with memory, time and reasons, before anything runs."""

from luthier.plan.alternatives import with_changes
from luthier.plan.decide import Plan, decide
from luthier.plan.hardware import Hardware, find_hardware

__all__ = ["Hardware", "Plan", "decide", "find_hardware", "with_changes"]
