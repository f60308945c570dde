"""Models from raw text: new encoders, masked language modelling, RetroMAE."""
