"""Makes the bundled model: corpus, conversations, tokenizer, model, training, export, evaluation."""
