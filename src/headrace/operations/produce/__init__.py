"""Events for the topics: generated ones, and a user's own from files."""
