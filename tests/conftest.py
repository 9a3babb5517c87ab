"""What every test may rely on: no telemetry, repeatable Hypothesis, a process that Flower knows."""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from hypothesis import settings

# The same examples every time, and no deadline: two workers share a slow machine.
settings.register_profile("consilium", derandomize=True, deadline=None, max_examples=60, print_blob=False)
settings.load_profile("consilium")
