"""Pipeline files as a person works with them: check them, and write the two files of a new pipeline."""
