"""The OpenAPI document of the REST paths, made from the contracts."""
