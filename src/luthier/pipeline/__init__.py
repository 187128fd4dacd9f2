"""The pipeline: the table of stages, what is stale, and running it."""

from luthier.pipeline.runner import Watcher, default_recipe, plan_stages, require_pass, run_recipe, stale_stages

__all__ = ["Watcher", "default_recipe", "plan_stages", "require_pass", "run_recipe", "stale_stages"]
