"""Request to ranked items. Its parts arrive with the running loop."""
