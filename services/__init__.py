"""Atelier's services: the Catalog, the Trainer and the Generator."""
