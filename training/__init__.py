"""History to registered model. Its parts arrive with the running loop."""
