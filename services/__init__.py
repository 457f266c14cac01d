"""Atelier's services: the Catalog, the Trainer and the Generator."""

VERSION = "0.1.0"
