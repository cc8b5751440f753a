"""Published protocols, one module each: a split, models and metrics that others have numbers for."""
