"""The coordinator: rounds, admission, checkpoints, tracking, reports."""
