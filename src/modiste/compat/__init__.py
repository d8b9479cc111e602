"""Other packages' interfaces on modiste's models, for code that is to go on working."""
