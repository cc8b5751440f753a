"""Topic to online store, offline store and dead letters. Its parts arrive with the running loop."""
