"""Minutes of random requests against a real Generator: `make soak`."""
