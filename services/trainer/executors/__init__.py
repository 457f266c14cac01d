"""Where workers run: as processes of this machine."""
