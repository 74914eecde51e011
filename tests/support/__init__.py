"""What tests share: a scripted server, data, summaries."""
