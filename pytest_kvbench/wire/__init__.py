"""What comes and goes over HTTP, whoever asks: addresses, one way out, bounded bodies, sound values."""
