"""What shrinks a cache: the table of policies and their parameters. No torch."""
