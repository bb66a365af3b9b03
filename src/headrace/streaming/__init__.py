"""What runs inside a Spark driver."""
