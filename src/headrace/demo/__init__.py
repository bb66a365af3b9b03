"""The demo: a live screen and the first rows of each sink."""
