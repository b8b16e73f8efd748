"""Speed of the endpoint, next to llama.cpp and transformers, and a daemon's latencies under load."""
