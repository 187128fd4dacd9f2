"""Evaluation: tasks, scorers, metrics with errors, the runner, comparison statistics, the gate."""
