"""Hyperparameter search: the search space, the study that remembers its trials, and its pictures."""
