"""Dead letters for operators: read and replay them, find a record on which a transform fails, and quarantine its offsets."""
