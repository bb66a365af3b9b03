"""Send events to topics: generated ones, or a user's own from files."""
