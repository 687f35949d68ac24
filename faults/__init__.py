"""The fault matrix: kills and failures in each stage, and what is lost or doubled after a rerun (nothing). `make faults`."""
