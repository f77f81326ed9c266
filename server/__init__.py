"""The server: text, HTTP and JSON around the engine. It never imports torch."""
