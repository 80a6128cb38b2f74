"""From texts to token ids to hidden states."""
