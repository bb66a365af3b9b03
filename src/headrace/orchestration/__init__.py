"""What DAG files and the Streams page import: task functions, DAG support, pools, notifications and pages."""
