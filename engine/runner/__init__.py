"""Carrying out plans on a device. It talks to the scheduler through `engine.plan` alone."""
