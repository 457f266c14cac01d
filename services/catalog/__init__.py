"""The Catalog: datasets, images, snapshots and models."""
