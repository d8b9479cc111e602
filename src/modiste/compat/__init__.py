"""Drop-in replacements for other packages, so that existing code works with Modiste's models."""
