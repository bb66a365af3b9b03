"""The command line `headrace`: one module for each noun."""
