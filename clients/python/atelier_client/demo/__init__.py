"""The whole job in a few minutes on two CPU cores: `python -m atelier_client.demo`."""
