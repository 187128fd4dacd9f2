"""Serve: an OpenAI-compatible server over our own models, llama.cpp or vLLM, and the files to deploy one."""
