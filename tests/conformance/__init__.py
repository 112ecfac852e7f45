"""One suite for every door of the Open Inference Protocol, ours or another server's."""
