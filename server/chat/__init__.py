"""What every dialect shares: conversations, prompts, and the reading of what the model writes."""
