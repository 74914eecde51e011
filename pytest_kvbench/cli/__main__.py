"""`python -m pytest_kvbench.cli`."""

from pytest_kvbench.cli import main

main()
