"""Shared by evals/ and tests/: nothing that a user's project would not have, but for pytester."""

pytest_plugins = ["pytester"]
