"""Hyperparameter search: the space, the study that remembers its trials, how they run, and what they leave."""
