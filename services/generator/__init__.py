"""What is drawn: requests, the engine that draws them, and the models in memory."""
