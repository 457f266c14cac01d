"""The process that does one training job: it attaches to the Trainer, trains, and says what happens.

Read it top-down: `__main__` wires, `attach` speaks with the Trainer, `job` is the job from its first report to its
last, `loop` is the training loop; the rest serves them.
"""
