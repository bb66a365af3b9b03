"""What the operator's tools (command line, Airflow) do to a running platform."""
