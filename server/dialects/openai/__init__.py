"""The OpenAI dialect: chat completions, completions, models, and vLLM's tokenize and detokenize beside them."""
