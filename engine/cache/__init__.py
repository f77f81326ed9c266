"""Cache bookkeeping in plain integers: which blocks and slots are whose."""
