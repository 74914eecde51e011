"""What is asked: `registry` finds a task by its name; one benchmark a file."""
