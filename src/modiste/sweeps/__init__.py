"""Hyperparameter search: the space, the study with its trials, their execution, and the report."""
