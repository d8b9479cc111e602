"""Other packages' interfaces for Modiste's models, so that existing code keeps working."""
