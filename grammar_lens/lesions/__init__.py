"""Lesions: chosen units held at another value during the forward pass, and batteries of them."""
