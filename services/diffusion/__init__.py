"""The model families that the Trainer's worker and the Generator share: load, encode, denoise, adapt, save.

No gRPC and no database in here, and importing it loads no torch: every function imports what it needs.
"""
