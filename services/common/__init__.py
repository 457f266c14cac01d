"""How every service starts, fails, logs and stores. No torch in here."""
