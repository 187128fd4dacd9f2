"""GGUF: llama.cpp's file format, written from a merged model or an adapter."""
