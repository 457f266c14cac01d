"""The edge: what stands between the services and everything outside."""
