"""Dead letters for operators: read and replay."""
