"""Safety: unsafe compliance and needless refusals judged together, before and after, plain and under jailbreaks."""

from luthier.evaluate.safety.refusals import PRECISION, RECALL, corrected, refuses
from luthier.evaluate.safety.suites import FORMATS, own_suite

__all__ = ["FORMATS", "PRECISION", "RECALL", "corrected", "own_suite", "refuses"]
