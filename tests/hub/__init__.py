"""A Hugging Face Hub on the loopback interface, for tests that run the real client."""
