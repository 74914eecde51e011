"""`python -m pytest_kvbench.cli`."""

from pytest_kvbench.cli.stages import main

main()
