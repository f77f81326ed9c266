"""The depthwise causal convolution of a DeltaNet layer."""
