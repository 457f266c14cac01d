"""The Trainer: training jobs, their queue and events, and the worker that fine-tunes."""
