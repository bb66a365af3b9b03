"""Code that runs inside a Spark driver."""
