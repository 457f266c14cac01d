"""The one Envoy configuration, built from the contracts. `bootstrap.py` is where to begin reading."""
