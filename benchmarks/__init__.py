"""One file per published figure; `make bench` runs them all."""
