"""The standalone page. The only room that knows gradio."""
