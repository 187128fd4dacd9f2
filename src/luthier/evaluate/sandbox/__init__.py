"""Running code that a model wrote apart from all that is the user's: no files, no network, bounded in what it takes."""

from luthier.evaluate.sandbox.box import Limits, Ran, isolation, run_program, run_programs

__all__ = ["Limits", "Ran", "isolation", "run_program", "run_programs"]
