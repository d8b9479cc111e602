"""Hyperparameter search: search space, Optuna study, execution of trials, and report."""
