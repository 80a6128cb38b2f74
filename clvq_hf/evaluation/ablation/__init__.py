"""Remove the salient concept of each text and see what the prediction loses."""
