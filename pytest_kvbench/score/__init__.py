"""What a metric makes of a reply: `metric` names them all, one family a file."""
